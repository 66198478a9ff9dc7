"""Variables that the optimizer overwrites with their gradient: the scales of float8, and their histories.

The "gradient" that a layer gives for such a variable is its new value. The new scale follows from the history and is
the same for each part of a batch. The new history contains the largest magnitude in the part. So the new value for the
whole batch is the largest over its parts.
"""

from typing import Any

import tensorflow as tf

from kparallel.data.share import Share
from kparallel.engine.replica import Replica
from kparallel.engine.replica_result import ReplicaResult
from kparallel.errors import ModelError

__all__: list[str] = []


def overwritten(replica: Replica, share: Share, result: ReplicaResult) -> dict[int, tf.Tensor]:
    """Return the new value of each overwritten variable by its id: the largest over the replicas.

    Args:
        replica: The present replica.
        share: Its rows.
        result: The result of its passes.

    Raises:
        ModelError: Such a variable belongs to no float8 layer of Keras's, so the rule of the largest may not hold.
    """
    largest: dict[int, tf.Tensor] = {}
    for s, stage in enumerate(replica.pipeline.stages):
        # `result.overwritten[s][w]` is the largest over this replica's microbatches already.
        updates = [(stage.weights[w], value) for w, value in result.overwritten[s].items()]
        for variable, _ in updates:
            if replica.parts > 1 and id(variable) not in stage.float8:
                raise ModelError(
                    f"Expected no variables that are overwritten with their gradient but those of Keras's float8 "
                    f"layers, received {variable.path!r} in a batch divided into {replica.parts}: nothing "
                    "tells how the parts' values make the whole batch's. Use one replica and one microbatch."
                )
        with tf.name_scope(f"reduce{s}"), tf.device(replica.devices[s]):
            values = _largest(replica, s, [value for _, value in updates], share)
        for (variable, _), value in zip(updates, values, strict=True):
            earlier = largest.get(id(variable))  # From a call in another stage. One device adds up gradients too.
            largest[id(variable)] = value if earlier is None else earlier + value
    return largest


def _largest(replica: Replica, s: int, values: list[Any], share: Share) -> list[tf.Tensor]:
    """Return the largest of the replicas' values, element by element, by one collective."""
    if not values or replica.is_single:
        return values
    flat = tf.concat([tf.reshape(value, [-1]) for value in values], 0)
    # An empty share takes part in the collective, but with values that are never the largest.
    flat = flat if share.count else tf.fill(flat.shape, flat.dtype.min)
    largest = tf.reduce_max(tf.stack(replica.communicators[s].all_gather([flat])[0]), 0)
    parts = tf.split(largest, [value.shape.num_elements() for value in values])
    return [tf.reshape(part, value.shape) for part, value in zip(parts, values, strict=True)]
