"""What wrapping costs: one replica against plain `fit`, and the host's time for a step."""

from dataclasses import replace

from examples.benchmarks.arms import running
from examples.benchmarks.processes import keras_arm
from examples.benchmarks.ratio import alternate, milliseconds, report, row_of, speed_ratio
from examples.benchmarks.row import Row, Settings
from examples.benchmarks.work import WORK

__all__: list[str] = []


def one_replica(work: str, settings: Settings) -> list[Row]:
    """Measure a wrapped model of one replica against the plain one."""
    arms = {"plain": keras_arm(work, "plain", [0]), "wrapped": keras_arm(work, "wrapped", [0])}
    with running(arms, settings.log) as started:
        samples = alternate(started, settings.rounds, WORK[work].steps)
    print(report(samples))
    what = f"{WORK[work].title}: `wrap` with one replica ÷ plain `fit`"
    setting = f"batch {WORK[work].batch}, one core"
    return [speed_ratio(what, samples["wrapped"], samples["plain"], at_least=0.97, conditions=setting)]


def host_time(settings: Settings) -> list[Row]:
    """Measure steps that have nothing to compute: what the host spends on a step of `fit`, and on its start."""
    work = WORK["tiny"]
    arms = {
        "plain Keras": keras_arm("tiny", "plain", [0, 1]),
        "stock `MirroredStrategy`, 2 devices": keras_arm("tiny", "mirrored", [0, 1], devices=2),
        "`wrap`, 1 replica": keras_arm("tiny", "wrapped", [0, 1]),
        "`wrap`, 2 replicas": keras_arm("tiny", "wrapped", [0, 1], devices=2, variants={"": {"replicas": 2}}),
    }
    with running(arms, settings.log) as started:
        starts = alternate(started, settings.rounds, 1)
        samples = alternate(started, settings.rounds, work.steps)
    print(report(samples))
    setting = f"batch {work.batch}, two cores"
    return [
        row_of(f"{what}: {name}", [1000 * s.seconds for s in group], unit="ms", conditions=f"{setting}, {steps}")
        for what, all_of_them, steps in (
            ("host time of a step", samples, f"{work.steps} steps an epoch"),
            ("a `fit` of one step, which is its start", starts, "traced before"),
        )
        for name, group in all_of_them.items()
    ]


def many_devices(settings: Settings) -> list[Row]:
    """Measure the host's time for a step of many replicas, which have nothing to compute, beside stock's."""
    work, found = WORK["tiny"], []
    for number in (8, 16):
        arms = {
            "stock": keras_arm("tiny", "mirrored", [0, 1], devices=number),
            "wrapped": keras_arm("tiny", "wrapped", [0, 1], devices=number, variants={"": {"replicas": number}}),
        }
        with running(arms, settings.log) as started:
            samples = alternate(started, settings.rounds, work.steps // 3)
        print(report(samples))
        pairs = zip(samples["wrapped"], samples["stock"], strict=True)
        ratios = [ours.seconds / stock.seconds for ours, stock in pairs]
        what = f"host time of a step: `wrap`, {number} replicas ÷ stock `MirroredStrategy` on as many devices"
        setting = f"batch {work.batch}, two cores; {milliseconds(samples['wrapped'], samples['stock'])}"
        found.append(replace(row_of(what, ratios, conditions=setting), at_most=0.25))
    return found
