"""Weak scaling over two pinned workers, next to PyTorch's DistributedDataParallel in the same run.

Two workers that train together are as fast as the slower core, and cores may differ. So one worker is measured on
each core by itself, and the slower of the two counts.
"""

import statistics
from collections.abc import Mapping, Sequence

from examples.benchmarks.arms import Arm, Process, Sample, running
from examples.benchmarks.processes import apart, keras_arm, keras_workers, torch_arm
from examples.benchmarks.ratio import Samples, alternate, best_variant, milliseconds, report, row_of
from examples.benchmarks.row import Row, Settings
from examples.benchmarks.work import WORK

__all__: list[str] = []

_PACKS = {"4 MB": 4_000_000, "10 MB": 10_000_000, "all": 0}
_COMPRESSIONS = {"bfloat16": 1.0, "float16": None}  # The goal of each, if it has one.
_CORES = range(2)


def rows(work: str, settings: Settings) -> list[Row]:
    """Measure a model with much arithmetic for each gradient byte.

    Args:
        work: Its name in `WORK`.
        settings: How to run.

    Returns:
        Two workers ÷ (2 × one worker): kparallel, PyTorch, one by the other, and two that do not communicate.
    """
    with running(_arms(work, settings), settings.log) as started:
        samples = alternate(started, settings.rounds, WORK[work].long)
        check_twins(started)
    print(report(samples))
    return _scaling(work, _with_slower(samples), at_least=0.9)


def small_arithmetic(work: str, settings: Settings) -> list[Row]:
    """Measure a model whose gradients take long to reduce, against what the reduction itself costs.

    Args:
        work: Its name in `WORK`.
        settings: How to run.

    Returns:
        As `rows`; and the efficiency ÷ c/(c+a), with c the time of one worker's step and a the CPU time of an
        all-reduce of the same bytes; and the efficiency with compressed gradients ÷ PyTorch's in float32.
    """
    arms = _arms(work, settings)
    reductions = {"all-reduce": {"own": None}, "TensorFlow's all-reduce": _PACKS}
    for name, packs in reductions.items():
        arms[name] = keras_workers(work, "examples.benchmarks.reduction_arm", packs=packs)
    for way in _COMPRESSIONS:
        arms[f"two, {way}"] = keras_workers(work, variants={"": {"gradient_compression": way}})
    with running(arms, settings.log) as started:
        check_twins(started)
        best = {name: best_variant(started[name], list(packs), WORK[work].steps) for name, packs in reductions.items()}
        samples = alternate(started, settings.rounds, WORK[work].long, best)
    print(report(samples))
    samples = _with_slower(samples)
    title = WORK[work].title
    result = _scaling(work, samples, at_least=None)
    for name in reductions:
        carrier = "TensorFlow's ring in packs of " + best[name] if name != "all-reduce" else "the engine's own ring"
        result.append(_against_sum(title, samples, name, carrier))
    return [*result, *(_compressed(title, samples, way, goal) for way, goal in _COMPRESSIONS.items())]


def _against_sum(title: str, samples: Samples, reduction: str, carrier: str) -> Row:
    """Compare with a worker that computes and then sums, on one core, and never waits."""
    step = [s.seconds for s in samples["one"]]
    bare = [s.user + s.system for s in samples[reduction]]
    efficiency = _efficiency(samples["one"], samples["two"])
    ratios = [e * (c + a) / c for e, c, a in zip(efficiency, step, bare, strict=True)]
    c, a = (1000 * statistics.median(each) for each in (step, bare))
    what = f"{title}, two workers: efficiency ÷ c/(c+a), a of {carrier}"
    return row_of(what, ratios, at_least=0.95, conditions=f"c {c:.3g} ms, a {a:.3g} ms")


def _compressed(title: str, samples: Samples, way: str, goal: float | None) -> Row:
    what = f"{title}, two workers: efficiency with {way} gradients ÷ PyTorch DDP's in float32"
    if "torch two" not in samples:
        return Row(what, None, at_least=goal, conditions="not run: no interpreter with PyTorch")
    ours = _efficiency(samples["one"], samples[f"two, {way}"])
    theirs = _efficiency(samples["torch one"], samples["torch two"])
    quotients = [x / y for x, y in zip(ours, theirs, strict=True)]
    times = milliseconds(samples[f"two, {way}"], samples["torch two"])
    return row_of(what, quotients, at_least=goal, conditions=times)


def _arms(work: str, settings: Settings) -> dict[str, list[Process]]:
    arms = {f"one on core {core}": keras_arm(work, "wrapped", [core]) for core in _CORES}
    arms |= {"two": keras_workers(work), "apart": apart(work)}
    if settings.torch_python is not None:
        for core in _CORES:
            arms[f"torch one on core {core}"] = torch_arm(work, "single", settings.torch_python, first_core=core)
        arms["torch two"] = torch_arm(work, "ddp", settings.torch_python, workers=2)
    return arms


def _with_slower(samples: Samples) -> dict[str, Sequence[Sample]]:
    """Add, for what was measured on each core by itself, the slower of each round."""
    result: dict[str, Sequence[Sample]] = dict(samples)
    for name in ("one", "torch one"):
        turns = [samples[f"{name} on core {core}"] for core in _CORES if f"{name} on core {core}" in samples]
        if turns:
            result[name] = [max(turn, key=lambda sample: sample.seconds) for turn in zip(*turns, strict=True)]
    return result


def _scaling(work: str, samples: Samples, at_least: float | None) -> list[Row]:
    title, batch = WORK[work].title, WORK[work].batch
    what = f"{title}: two pinned workers ÷ (2 × one worker)"
    setting = f"batch {batch} a worker, one core a worker, loopback, {WORK[work].long} steps an epoch, the slower core"
    ours = _efficiency(samples["one"], samples["two"])
    times = milliseconds(samples["two"], samples["one"])
    result = [row_of(what, ours, at_least=at_least, conditions=f"{setting}; {times}")]
    if "torch two" in samples:
        theirs = _efficiency(samples["torch one"], samples["torch two"])
        times = milliseconds(samples["torch two"], samples["torch one"])
        result.append(row_of(f"{what}: PyTorch DDP", theirs, conditions=f"gloo, the same model; {times}"))
        quotients = [x / y for x, y in zip(ours, theirs, strict=True)]
        goal = None if at_least is None else 1.0
        result.append(row_of(f"{what}: kparallel ÷ PyTorch DDP", quotients, at_least=goal))
    else:
        result.append(Row(f"{what}: PyTorch DDP", None, conditions="not run: no interpreter with PyTorch"))
    alone = _efficiency(samples["one"], samples["apart"])
    return [*result, row_of(f"{what}: workers that do not communicate", alone, conditions="the machine's limit")]


def _efficiency(one: Sequence[Sample], two: Sequence[Sample]) -> list[float]:
    """Return, round by round, 2 workers ÷ (2 × 1 worker): a step of two workers has twice the rows."""
    return [x.seconds / y.seconds for x, y in zip(one, two, strict=True)]


def check_twins(arms: Mapping[str, Arm]) -> None:
    """Check that every arm trains as many parameters: the twins are of the same shapes."""
    counts = {name: arm.facts["parameters"] for name, arm in arms.items() if "parameters" in arm.facts}
    assert len(set(counts.values())) == 1, counts
