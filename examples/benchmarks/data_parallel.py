"""Data parallelism over two virtual devices of one process, against stock Keras on the same and on one."""

from dataclasses import replace

from examples.benchmarks.arms import running
from examples.benchmarks.processes import apart, keras_arm, legacy_arm
from examples.benchmarks.ratio import alternate, report, speed_ratio
from examples.benchmarks.row import Row, Settings
from examples.benchmarks.work import WORK

__all__: list[str] = []


def rows(work: str, settings: Settings, allocator: str = "keeping") -> list[Row]:
    """Measure one model.

    Args:
        work: Its name in `WORK`.
        settings: How to run.
        allocator: Of all arms, as in `Process`.

    Returns:
        Samples a second against stock `MirroredStrategy`: as it is, without what it waits for after its last step, and
        with the reduction that suits CPUs; against one stock device; and against what two cores allow at most: two
        processes of plain Keras that tell each other nothing.
    """
    arms = {
        "plain": keras_arm(work, "plain", [0]),
        "stock": keras_arm(work, "mirrored", [0, 1], devices=2),
        "untuned": keras_arm(work, "mirrored", [0, 1], devices=2, untuned=True),
        "one device": keras_arm(work, "mirrored", [0, 1], devices=2, untuned=True, one_device=True),
        "wrapped": keras_arm(work, "wrapped", [0, 1], devices=2, variants={"": {"replicas": 2}}),
        "apart": apart(work, kind="plain", batch=WORK[work].batch // 2),
    }
    arms = {name: [replace(process, allocator=allocator) for process in arm] for name, arm in arms.items()}
    with running(arms, settings.log) as started:
        samples = alternate(started, settings.rounds, WORK[work].long)
    print(report(samples))
    what = f"{WORK[work].title}: data parallel on 2 devices"
    if allocator == "default":
        what += ", glibc's malloc as it is,"
    stock = f"{what} ÷ stock `MirroredStrategy.fit` on the same"
    bases = {
        "stock": (stock, None),
        "untuned": (f"{stock}, without its wait after the last step", None),
        "one device": (f"{stock}, without that wait and with `ReductionToOneDevice`", None),
        "plain": (f"{what} ÷ one stock device pinned to one core", 1.7),
        "apart": (f"{what} ÷ two replicas that tell each other nothing", 0.95),
    }
    return [
        speed_ratio(text, samples["wrapped"], samples[base], at_least=least, conditions=_setting(work))
        for base, (text, least) in bases.items()
    ]


def more(work: str, settings: Settings, trial: float) -> list[Row]:
    """Measure a model that no goal was tuned on, with Adam.

    Args:
        work: Its name in `WORK`.
        settings: How to run.
        trial: What a trial on other sizes of such a model gave; said with the row, and no goal.

    Returns:
        Samples a second against stock `MirroredStrategy` without what it waits for after its last step, and against
        one stock device.
    """
    arms = {
        "plain": keras_arm(work, "plain", [0], adam=True),
        "untuned": keras_arm(work, "mirrored", [0, 1], devices=2, untuned=True, adam=True),
        "wrapped": keras_arm(work, "wrapped", [0, 1], devices=2, variants={"": {"replicas": 2}}, adam=True),
    }
    with running(arms, settings.log) as started:
        samples = alternate(started, settings.rounds, WORK[work].long)
    print(report(samples))
    what = f"{WORK[work].title}: data parallel on 2 devices"
    setting = f"{_setting(work)}, Adam"
    return [
        speed_ratio(
            f"{what} ÷ stock `MirroredStrategy.fit` on the same, without its wait after the last step",
            samples["wrapped"],
            samples["untuned"],
            conditions=f"{setting}, a trial gave {trial}",
        ),
        speed_ratio(
            f"{what} ÷ one stock device pinned to one core", samples["wrapped"], samples["plain"], conditions=setting
        ),
    ]


def legacy(work: str, settings: Settings) -> list[Row]:
    """Measure against legacy `tf_keras` on the same devices, where it is installed."""
    what = f"{WORK[work].title}: data parallel on 2 devices ÷ legacy `tf_keras` `MirroredStrategy.fit` on the same"
    if settings.legacy_python is None:
        return [Row(what, None, conditions="not run: no interpreter with tf_keras")]
    arms = {
        "legacy": legacy_arm(work, [0, 1], settings.legacy_python),
        "wrapped": keras_arm(work, "wrapped", [0, 1], devices=2, variants={"": {"replicas": 2}}),
    }
    with running(arms, settings.log) as started:
        samples = alternate(started, settings.rounds, WORK[work].long)
    print(report(samples))
    return [speed_ratio(what, samples["wrapped"], samples["legacy"], conditions=_setting(work))]


def _setting(work: str) -> str:
    batch, steps = WORK[work].batch, WORK[work].long
    return f"global batch {batch}, two virtual devices on two cores, {steps} steps an epoch"
