"""What a step of the user's own costs beside Keras's, and what it costs to find out whether it may be divided."""

from dataclasses import replace

from examples.benchmarks.arms import Process, running
from examples.benchmarks.ratio import alternate, milliseconds, report, row_of
from examples.benchmarks.row import Row, Settings
from examples.benchmarks.work import WORK

__all__: list[str] = []

_STEPS = {"Keras's own step with a layer of the user's own": False, "a `train_step` of the user's own": True}


def rows(work: str, settings: Settings) -> list[Row]:
    """Measure both steps, each compared before training and not, on two devices."""
    arms = {
        f"{name}, {check}": [
            Process(
                "examples.benchmarks.own_steps_arm",
                {"work": work, "batch": 2 * WORK[work].batch, "own": own, "check": check},
                [0, 1],
            )
        ]
        for name, own in _STEPS.items()
        for check in ("off", "error")
    }
    with running(arms, settings.log) as started:
        grown = {name: arm.facts["grown"] for name, arm in started.items()}
        firsts = alternate(started, settings.rounds, 1, dict.fromkeys(arms, "first"))
        samples = alternate(started, settings.rounds, WORK[work].steps, dict.fromkeys(arms, "steps"))
    print(report(samples))
    title, setting = WORK[work].title, f"batch {2 * WORK[work].batch}, 2 devices on two cores"
    kerass, own = (samples[f"{name}, off"] for name in _STEPS)
    ratios = [o.seconds / k.seconds for o, k in zip(own, kerass, strict=True)]
    condition = f"{setting}; {milliseconds(own, kerass)}"
    found = [replace(row_of(f"{title}: own step ÷ Keras's own step", ratios, conditions=condition), at_most=1.1)]
    for name in _STEPS:
        pairs = zip(firsts[f"{name}, error"], firsts[f"{name}, off"], strict=True)
        added = [(with_it.seconds - without.seconds, without.seconds) for with_it, without in pairs]
        what = f"{title}: the comparison before {name}"
        found.append(row_of(what, [seconds for seconds, _ in added], unit="s", conditions=setting))
        found.append(
            row_of(f"{what} ÷ its first step", [seconds / first for seconds, first in added], conditions=setting)
        )
        memory = [grown[f"{name}, error"] / grown[f"{name}, off"]]
        found.append(row_of(f"{what}: peak memory of the first step ÷ without it", memory, conditions=setting))
    return found
