"""A pipeline of two stages on two cores, next to `torch.distributed.pipelining` in the same run."""

from collections.abc import Mapping

from examples.benchmarks.arms import running
from examples.benchmarks.processes import keras_arm, torch_arm
from examples.benchmarks.ratio import Samples, alternate, best_variant, report, row_of, speed_ratio
from examples.benchmarks.row import Row, Settings
from examples.benchmarks.work import WORK
from examples.benchmarks.workers import check_twins

__all__: list[str] = []

_MICROBATCHES = (2, 4, 8, 16)


def rows(work: str, settings: Settings) -> list[Row]:
    """Measure one model.

    Args:
        work: Its name in `WORK`.
        settings: How to run.

    Returns:
        Two virtual devices of one process ÷ one stock device on one core, and on both; two processes of PyTorch ÷
        one; one by the other.
        Each pipeline runs with the number of microbatches, and PyTorch's with the schedule, that was fastest in a
        trial before.
    """
    ours = {f"M={m}": {"stages": 2, "microbatches": m} for m in _MICROBATCHES}
    theirs = {f"{s}, M={m}": {"schedule": s, "microbatches": m} for s in ("gpipe", "1f1b") for m in _MICROBATCHES}
    arms = {
        "plain": keras_arm(work, "plain", [0]),
        "two cores": keras_arm(work, "plain", [0, 1], jit=False),
        "pipeline": keras_arm(work, "wrapped", [0, 1], devices=2, variants=ours),
    }
    if settings.torch_python is not None:
        arms["torch one"] = torch_arm(work, "single", settings.torch_python)
        arms["torch pipeline"] = torch_arm(work, "pipeline", settings.torch_python, workers=2, variants=theirs)
    steps = WORK[work].steps
    with running(arms, settings.log) as started:
        check_twins(started)
        chosen = {"pipeline": best_variant(started["pipeline"], list(ours), steps)}
        if "torch pipeline" in started:
            chosen["torch pipeline"] = best_variant(started["torch pipeline"], list(theirs), steps)
        samples = alternate(started, settings.rounds, steps, chosen)
    print(report(samples))
    return _compared(work, samples, chosen)


def _compared(work: str, samples: Samples, chosen: Mapping[str, str]) -> list[Row]:
    what = f"{WORK[work].title}: pipeline, 2 stages"
    ours, plain = samples["pipeline"], samples["plain"]
    setting = (
        f"batch {WORK[work].batch}, two virtual devices on two cores, best of M = 2, 4, 8, 16: {chosen['pipeline']}"
    )
    result = [
        speed_ratio(f"{what} ÷ one device pinned to one core", ours, plain, at_least=1.4, conditions=setting),
        speed_ratio(
            f"{what} ÷ one stock device with both cores",
            ours,
            samples["two cores"],
            conditions="`jit_compile=False`, so that independent operations run side by side",
        ),
    ]
    peer = f"{what}: `torch.distributed.pipelining` ÷ one process"
    if "torch pipeline" not in samples:
        return [*result, Row(peer, None, conditions="not run: no interpreter with PyTorch")]
    one, two = samples["torch one"], samples["torch pipeline"]
    setting = f"gloo, two pinned processes, {chosen['torch pipeline']}"
    gains = zip(plain, ours, one, two, strict=True)
    quotients = [(a.seconds / b.seconds) / (c.seconds / d.seconds) for a, b, c, d in gains]
    return [
        *result,
        speed_ratio(peer, two, one, conditions=setting),
        row_of(f"{what}: kparallel ÷ `torch.distributed.pipelining`", quotients, at_least=1.0),
    ]
