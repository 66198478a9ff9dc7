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


def check_written(group: WorkerGroup, variables: Sequence[keras.Variable], is_written: bool) -> None:
    """Check that the workers have the same values of what they share out, before each drops what others own.

    Args:
        group: The workers.
        variables: The weights and slots that they share out, all of them together; in one order on all workers.
        is_written: Whether one may have been written on this worker since they came together.

    Raises:
        WorkerError: The values differ.
    """
    if not any(group.exchange("drops what other workers hold", is_written)):
        return
    norms = [_norm_of_any(variable) for variable in variables]
    # Without an absolute tolerance: a slot may hold the squares of small gradients.
    _check_norms(variables, group.exchange("compares what it holds", norms), least=0.0)


def check_written_alike(group: WorkerGroup, is_written: bool) -> None:
    """Check that the workers have written what they share out on all of them or on none, where values are dropped.

    Args:
        group: The workers.
        is_written: Whether this worker has written a weight or slot that it has dropped since.

    Raises:
        WorkerError: Some workers alone have written.
    """
    wrote = group.exchange("has dropped what other workers hold", is_written)
    if any(wrote) and not all(wrote):
        listed = ", ".join(str(index) for index, each in enumerate(wrote) if each)
        raise WorkerError(
            "Expected weights and slots to be written on every worker alike before a loop's step, received writes "
            f"on worker {listed} alone: of each the owner's value counted. Assign them on all workers."
        )


def _is_floating(weight: keras.Variable) -> bool:
    return bool(tf.as_dtype(weight.dtype).is_floating)


def _check_norms(
    variables: Sequence[keras.Variable], of_workers: Sequence[Sequence[float]], least: float = 1e-10
) -> None:
    """Compare the norms of variables, `[worker][variable]`, of which differences up to `least` do not count."""
    for variable, norms in zip(variables, zip(*of_workers, strict=True), strict=True):
        if not _alike(norms, least):
            owned = variable_of_workers(variable)
            kind = "weight" if owned is None or owned.owner.is_weight else "slot"
            _refuse(f"values of {kind} {variable.path!r}", [f"a norm of {norm:.6g}" for norm in norms])


def _rate(model: keras.Model) -> float | None:
    rate = getattr(own_optimizer(model.optimizer), "learning_rate", None)
    return None if rate is None else float(keras.ops.convert_to_numpy(rate))


def _norm(weight: keras.Variable) -> float:
    # `l2_loss` is half the sum of squares.
    return math.sqrt(2 * float(tf.nn.l2_loss(weight.value)))


def _norm_of_any(variable: keras.Variable) -> float:
    """Return the norm of a variable of any dtype, also where the squares of its values are too small for it."""
    return float(tf.norm(tf.cast(variable.value, tf.float64)))


def _alike(numbers: Sequence[float], least: float = 1e-10) -> bool:
    return np.allclose(numbers[0], numbers, rtol=_DRIFT, atol=least, equal_nan=True)


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
        f"Expected the same {what} on all workers, received {listed}. Whatever sets weights, slots of an optimizer or "
        "the learning rate, such as a callback, has to do so on every worker alike."
    )
