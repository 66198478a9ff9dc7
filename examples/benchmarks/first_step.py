"""What the first step costs, and the first on a batch of another size, beside plain Keras: CPU seconds, and memory."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from examples.benchmarks.arms import Process, running
from examples.benchmarks.ratio import row_of
from examples.benchmarks.row import Row, Settings

__all__: list[str] = []

_PARTS = ("first step", "another size")
# By a plan in words: the arguments of `wrap`, and the most that each part may cost, as a multiple of plain Keras.
Plans = Mapping[str, tuple[dict[str, Any], tuple[float | None, float | None]]]

DENSE: Plans = {
    "1 replica": ({"replicas": 1}, (1.05, None)),
    "2 replicas": ({"replicas": 2}, (None, None)),
    "4 replicas": ({"replicas": 4}, (None, None)),
    "8 replicas": ({"replicas": 8}, (2.3, 3.0)),
    "4 replicas, shard='optimizer'": ({"replicas": 4, "shard": "optimizer"}, (None, None)),
    "8 stages, 32 microbatches": ({"replicas": 1, "stages": 8, "microbatches": 32}, (None, None)),
    "8 stages, 64 microbatches": ({"replicas": 1, "stages": 8, "microbatches": 64}, (None, None)),
}
OWN: Plans = {"4 replicas": ({"replicas": 4}, (None, None))}
DENSENET: Plans = {"2 replicas": ({"replicas": 2}, (1.2, None))}
_NAMES = {"dense": "40 Dense layers", "own": "the same with a `train_step` of its own", "densenet": "DenseNet121"}


def rows(kind: str, plans: Plans, settings: Settings) -> list[Row]:
    """Measure one kind of model: each arm in a process of its own, one after another.

    Args:
        kind: As the arm takes it.
        plans: The plans.
        settings: Rounds and log.
    """
    arms: dict[str, Any] = {"plain Keras": None, **{name: arguments for name, (arguments, _) in plans.items()}}
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for _ in range(settings.rounds):
        for name, arguments in arms.items():
            process = Process("examples.benchmarks.first_step_arm", {"kind": kind, "wrap": arguments}, [0, 1])
            with running({"first": [process]}, settings.log) as started:
                measured[name].append(started["first"].facts)
    found = []
    for name, (_, most) in plans.items():
        for part, at_most in zip(_PARTS, most, strict=True):
            pairs = list(zip(measured[name], measured["plain Keras"], strict=True))
            ours, base = (statistics.median(each[i][part] for each in pairs) for i in range(2))
            conditions = f"Adam; CPU seconds of one process on two cores, {ours:.1f} against {base:.1f}"
            what = f"{part}, {_NAMES[kind]}: {name} ÷ plain Keras"
            row = row_of(what, [one[part] / other[part] for one, other in pairs], conditions=conditions)
            found.append(replace(row, at_most=at_most))
        found.append(_memory(f"{_NAMES[kind]}: {name}", measured[name], measured["plain Keras"]))
    return found


def _memory(what: str, ours: Sequence[Mapping[str, float]], base: Sequence[Mapping[str, float]]) -> Row:
    """Return the ratio of the most memory that the processes had, TensorFlow itself included."""
    most, of = (statistics.median(each["memory"] for each in group) / 1e6 for group in (ours, base))
    ratios = [one["memory"] / other["memory"] for one, other in zip(ours, base, strict=True)]
    return row_of(
        f"memory of the process after both, {what} ÷ plain Keras", ratios, conditions=f"{most:.0f} against {of:.0f} MB"
    )
