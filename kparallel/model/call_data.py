"""The data of a call of `fit`, `evaluate` or `predict`: equal on all workers, and in a form that Keras's loops take."""

from typing import Any

import tensorflow as tf

from kparallel.comm.failures import translate_worker_loss
from kparallel.data.batches import PerReplicaDataset
from kparallel.data.cardinality import length_of
from kparallel.data.shards import ShardBatches, Shards
from kparallel.model.runtime import Runtime
from kparallel.workers.consistency import call_fingerprint, require_same
from kparallel.workers.rejoin import rejoin

__all__: list[str] = []


def check_call(runtime: Runtime, name: str, arguments: dict[str, Any]) -> None:
    """In a cluster, make sure that all workers call the same with the same data; `fit` has done so for its own.

    Args:
        runtime: The wrapped model's.
        name: `"evaluate"` or `"predict"`.
        arguments: The call's, by name.

    Raises:
        WorkerError: Another worker calls another method, or with other data.
    """
    # Inside of `fit` an evaluation is part of the call that was compared.
    if runtime.placement.group.is_single or runtime.feeding:
        return
    x = arguments.get("x")
    length = length_of(x, arguments.get("batch_size"))
    runtime.epoch.unsized = length is None
    with translate_worker_loss():
        rejoin(runtime.placement)
        require_same(runtime.placement.group, call_fingerprint(name, x, arguments.get("steps"), length))


def adapted(runtime: Runtime, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return a call's arguments with datasets that are distributed already as Keras's loops take them.

    Args:
        runtime: The wrapped model's.
        arguments: The call's, by name; changed in place.
    """
    strategy, group = runtime.strategy, runtime.placement.group
    for key in ("x", "validation_data"):
        given = arguments.get(key)
        if not isinstance(given, tf.distribute.DistributedDataset | Shards):
            continue
        # Keras refuses class weights with such data; the adapter applies them.
        weight = arguments.pop("class_weight", None) if key == "x" else None
        if isinstance(given, Shards):
            runtime.epoch.unsized = True
            # Validation data begin at epoch 0 in each call, so that they are read in one order.
            given.epoch = arguments.get("initial_epoch", 0) if key == "x" else 0
            arguments[key] = ShardBatches(given, strategy, group.worker_index, group.workers, weight)
        else:
            arguments[key] = PerReplicaDataset(given, strategy, weight)
    return arguments
