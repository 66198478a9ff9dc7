"""Twelve plans on two cores, predicted before they are run: three models x replicas, stages, shards and workers."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.benchmarks.arms import ALLOCATOR, ROOT, running
from examples.benchmarks.processes import keras_arm, keras_workers
from examples.benchmarks.ratio import alternate, report
from examples.benchmarks.row import Row, Settings
from examples.benchmarks.work import WORK

__all__: list[str] = []

_MODELS = ("mlp", "resnet", "transformer")
# Of one process with two devices. What is wrapped and what is predicted are the same arguments.
_PLANS: dict[str, dict[str, Any]] = {
    "2 replicas": {"replicas": 2, "shard": None},
    "2 replicas, shard optimizer": {"replicas": 2, "shard": "optimizer"},
    "2 stages, 4 microbatches": {"replicas": 1, "stages": 2, "microbatches": 4, "balance": "time"},
}
_WORKERS = "2 workers"
_LIMIT = 600  # Seconds for a measurement of the machine, or the predictions for a model.


def rows(settings: Settings) -> list[Row]:
    """Predict all plans from what `kparallel test --write` and single layers take; then run them.

    Args:
        settings: How to run.

    Returns:
        The rank correlation of predicted and measured times, the median error, and each prediction ÷ measurement.
    """
    files = {name: str(Path(settings.log) / f"{name}.toml") for name in ("devices", "workers")}
    _run(["-m", "kparallel", "test", "--write", files["devices"]])
    _run(["-m", "kparallel", "test", "-n", "2", "--write", files["workers"]])
    told = {work: _predicted(work, files) for work in _MODELS}
    took = {work: _measured(work, settings) for work in _MODELS}
    pairs = [(told[work][plan], statistics.median(took[work][plan])) for work in _MODELS for plan in told[work]]
    errors = [abs(predicted / measured - 1) for predicted, measured in pairs]
    setting = f"{len(pairs)} plans of three models on two cores"
    result = [
        Row("planner: rank correlation of predicted and measured times", rank_correlation(pairs), at_least=0.9),
        Row("planner: median error", 100 * statistics.median(errors), at_most=15.0, unit="%", conditions=setting),
    ]
    for work in _MODELS:
        for plan, predicted in told[work].items():
            ratios = [predicted / seconds for seconds in took[work][plan]]
            what = f"{WORK[work].title}, {plan}: predicted ÷ measured time of a step"
            times = f"{1000 * predicted:.3g} against {1000 * statistics.median(took[work][plan]):.3g} ms"
            result.append(Row(what, statistics.median(ratios), min(ratios), max(ratios), conditions=times))
    return result


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Return Spearman's rank correlation of pairs without ties.

    Example:
        >>> rank_correlation([(1, 10), (2, 20), (3, 30)]), rank_correlation([(1, 3), (2, 2), (3, 1)])
        (1.0, -1.0)
    """
    ranks = [[sorted(side).index(value) for value in side] for side in zip(*pairs, strict=True)]
    squares = sum((one - other) ** 2 for one, other in zip(*ranks, strict=True))
    return 1 - 6 * squares / (len(pairs) * (len(pairs) ** 2 - 1))


def _predicted(work: str, files: dict[str, str]) -> dict[str, float]:
    """Return the predicted seconds of a step by plan."""
    batch = WORK[work].batch
    asked = {name: {"cluster": files["devices"], "batch_size": batch, **plan} for name, plan in _PLANS.items()}
    asked[_WORKERS] = {"cluster": files["workers"], "batch_size": 2 * batch, "replicas": 2}
    told: dict[str, float] = json.loads(_run(["-m", "examples.benchmarks.planned_arm", work, json.dumps(asked)]))
    return told


def _measured(work: str, settings: Settings) -> dict[str, list[float]]:
    """Return the measured seconds of a step, one for each round, by plan."""
    arms = {name: keras_arm(work, "wrapped", [0, 1], devices=2, variants={"": plan}) for name, plan in _PLANS.items()}
    with running({**arms, _WORKERS: keras_workers(work)}, settings.log) as started:
        samples = alternate(started, settings.rounds, WORK[work].long)
    print(report(samples))
    return {name: [sample.seconds for sample in group] for name, group in samples.items()}


def _run(arguments: Sequence[str]) -> str:
    """Run a program in the environment of the arms; return its last line."""
    # One intra-op thread, as in the arms: the cluster file and the times of layers are scaled by one another's rates.
    settings = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "1"}
    environment = os.environ | ALLOCATOR | settings
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_LIMIT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr[-3000:]}")
    return done.stdout.strip().rpartition("\n")[2]
