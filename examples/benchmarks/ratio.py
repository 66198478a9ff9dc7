"""Alternate arms over rounds, and take ratios round by round: what slows the machine for a while slows both sides."""

import statistics
from collections.abc import Mapping, Sequence

from examples.benchmarks.arms import Arm, Sample
from examples.benchmarks.row import Row

__all__: list[str] = []

Samples = Mapping[str, Sequence[Sample]]


def alternate(
    arms: Mapping[str, Arm], rounds: int, steps: int, variants: Mapping[str, str] | None = None
) -> dict[str, list[Sample]]:
    """Ask each arm in turn for the same number of steps.

    Args:
        arms: The arms by name.
        rounds: How often each is asked; a short round before them is thrown away.
        steps: Steps of one measurement.
        variants: What an arm of several variants runs.

    Returns:
        One sample for each round, by the arm's name.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name, arm in arms.items():
            sample = arm.run(steps if turn else 1 + steps // 4, (variants or {}).get(name, ""))
            if turn:
                samples[name].append(sample)
    return samples


def best_variant(arm: Arm, variants: Sequence[str], steps: int) -> str:
    """Return the variant with the fastest step. What is reported of it is measured afterwards, with the other arms."""
    turns = [{name: arm.run(1 + steps // 3, name).seconds for name in variants} for _ in range(3)]
    times = {name: min(turn[name] for turn in turns) for name in variants}
    print(f"  {arm.name}: " + ", ".join(f"{name} {1000 * seconds:.4g} ms" for name, seconds in times.items()))
    return min(times, key=times.__getitem__)


def speed_ratio(
    what: str,
    ours: Sequence[Sample],
    base: Sequence[Sample],
    *,
    factor: float = 1.0,
    at_least: float | None = None,
    conditions: str = "",
) -> Row:
    """Return a row: how much faster we take a step than the base, times a factor; median and range of the rounds."""
    ratios = [factor * b.seconds / o.seconds for o, b in zip(ours, base, strict=True)]
    return row_of(what, ratios, at_least=at_least, conditions=f"{conditions}; {milliseconds(ours, base)}")


def row_of(
    what: str, values: Sequence[float], *, at_least: float | None = None, unit: str = "", conditions: str = ""
) -> Row:
    """Return a row of the rounds' median and range."""
    return Row(what, statistics.median(values), min(values), max(values), at_least, None, unit, conditions)


def milliseconds(*groups: Sequence[Sample]) -> str:
    """Say the median time of a step of each."""
    return " against ".join(f"{1000 * median_seconds(group):.3g}" for group in groups) + " ms a step"


def median_seconds(samples: Sequence[Sample]) -> float:
    """Return the median time of a step."""
    return statistics.median(sample.seconds for sample in samples)


def report(samples: Samples) -> str:
    """Return one line for each arm: where its time goes."""
    lines = []
    for name, group in samples.items():
        times = " ".join(f"{1000 * sample.seconds:.4g}" for sample in group)
        user, system = (1000 * statistics.median(getattr(s, key) for s in group) for key in ("user", "system"))
        middle = 1000 * median_seconds(group)
        idle = 1000 * max(sample.idle for sample in group)
        lines.append(
            f"  {name:15} {middle:8.2f} ms a step, CPU {user:.1f} user + {system:.1f} system ({times}), "
            f"CPU of a whole wait at most {idle:.0f} ms"
        )
    return "\n".join(lines)
