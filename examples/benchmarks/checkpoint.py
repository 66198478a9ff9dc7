"""How long training stands still for a checkpoint, beside a synchronous save of the same state."""

from dataclasses import replace

from examples.benchmarks.arms import Process, running
from examples.benchmarks.ratio import milliseconds, row_of
from examples.benchmarks.row import Row, Settings

__all__: list[str] = []

_SIZES = {"6 MB": {"layers": 12, "width": 200}, "100 MB": {"layers": 8, "width": 1024}}  # With the slots of Adam.
_SAVES = 5


def rows(settings: Settings) -> list[Row]:
    """Measure a snapshot, which is written in the background, against a whole save."""
    made = []
    for size, options in _SIZES.items():
        arms = {"checkpoint": [Process("examples.benchmarks.checkpoint_arm", options, [0, 1])]}
        with running(arms, settings.log) as started:
            turns = [
                [started["checkpoint"].run(_SAVES, variant) for variant in ("snapshot", "save")]
                for _ in range(settings.rounds)
            ]
        snapshots, saves = zip(*turns, strict=True)
        ratios = [one.seconds / other.seconds for one, other in zip(snapshots, saves, strict=True)]
        setting = f"Adam, two replicas; {milliseconds(snapshots, saves)}".replace(" a step", "")
        row = row_of(f"checkpoint of {size}: time that training waits ÷ synchronous save", ratios, conditions=setting)
        made.append(replace(row, at_most=0.15))
    return made
