"""Detects workers that have drifted apart: other batches read, another learning rate, other weights.

Gradients are summed over the workers, so a worker that differs causes no error by itself: each would end with weights
of its own.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kparallel.comm.group import WorkerGroup
from kparallel.compat.optimizers import own_optimizer
from kparallel.compat.variables import variable_of_workers
from kparallel.data.digest import BatchDigest
from kparallel.errors import DataError, WorkerError

__all__: list[str] = []

_DRIFT = 1e-4  # Relative tolerance, since processors of different models round differently.


def check_drift(group: WorkerGroup, model: keras.Model, read: BatchDigest) -> None:
    """Check that the workers have read the same batches and have the same weights and learning rate.

    Args:
        group: The workers.
        model: The wrapped model.
        read: The digest of what this worker has read.

    Raises:
        DataError: The workers have read different batches.
        WorkerError: Their weights or learning rates differ.
    """
    # A norm for each weight: a number travels where the weight itself would be as large as a step's gradients.
    # A weight that one worker alone holds cannot differ.
    weights = [weight for weight in model.weights if _is_floating(weight) and variable_of_workers(weight) is None]
    status = {"read": str(read), "rate": _rate(model), "norms": [_norm(weight) for weight in weights]}
    answers = group.exchange("is at the begin or the end of an epoch", status)
    check_same_batch(read, [answer["read"] for answer in answers])
    rates = [answer["rate"] for answer in answers]
    # NaN equals NaN here: no worker has a rate, or all have lost it alike.
    if not _alike([np.nan if rate is None else rate for rate in rates]):
        _refuse("learning rate", rates)
    _check_norms(weights, [answer["norms"] for answer in answers])


def check_written(group: WorkerGroup, model: keras.Model, is_written: bool) -> None:
    """Check that the workers have the same values of weights that they share out, before each drops the others'.

    Args:
        group: The workers.
        model: The wrapped model, its weights together.
        is_written: Whether one may have been written on this worker since they came together.

    Raises:
        WorkerError: The values differ.
    """
    if not any(group.exchange("drops weights that other workers hold", is_written)):
        return
    weights = [weight for weight in model.weights if _is_floating(weight) and variable_of_workers(weight) is not None]
    _check_norms(weights, group.exchange("compares weights", [_norm(weight) for weight in weights]))


def _is_floating(weight: keras.Variable) -> bool:
    return bool(tf.as_dtype(weight.dtype).is_floating)


def _check_norms(weights: Sequence[keras.Variable], of_workers: Sequence[Sequence[float]]) -> None:
    """Compare the norms of weights, `[worker][weight]`."""
    for weight, norms in zip(weights, zip(*of_workers, strict=True), strict=True):
        if not _alike(norms):
            _refuse(f"values of weight {weight.path!r}", [f"a norm of {norm:.6g}" for norm in norms])


def _rate(model: keras.Model) -> float | None:
    rate = getattr(own_optimizer(model.optimizer), "learning_rate", None)
    return None if rate is None else float(keras.ops.convert_to_numpy(rate))


def _norm(weight: keras.Variable) -> float:
    # `l2_loss` is half the sum of squares.
    return math.sqrt(2 * float(tf.nn.l2_loss(weight.value)))


def _alike(numbers: Sequence[float]) -> bool:
    return np.allclose(numbers[0], numbers, rtol=_DRIFT, atol=1e-10, equal_nan=True)


def check_same_batch(read: BatchDigest, digests: list[str]) -> None:
    """Check that all workers have read the same batches, of which each takes its share.

    Args:
        read: This worker's digest; a failed check starts it anew.
        digests: The digests of all workers.

    Raises:
        DataError: The digests differ.
    """
    if len(set(digests)) > 1:
        read.begin()
        raise DataError(
            f"Expected all workers to read the same batches, received digests {digests}. Give every random step of the "
            "dataset a seed, such as shuffle(1000, seed=0), random arrays too (np.random.default_rng(0)), let parallel "
            "steps keep their order (deterministic=True), or shard the data yourself with "
            "model.distribute_strategy.distribute_datasets_from_function."
        )


def _refuse(what: str, values: list[Any]) -> None:
    listed = "; ".join(f"worker {index}: {value}" for index, value in enumerate(values))
    raise WorkerError(
        f"Expected the same {what} on all workers, received {listed}. Whatever sets weights or the learning rate, such "
        "as a callback, has to do so on every worker alike."
    )
