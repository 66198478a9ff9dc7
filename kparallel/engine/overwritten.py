"""Variables that the optimizer overwrites with their gradient: the scales of float8 and the histories behind them.

What a layer gives as such a gradient is the new value: of a scale what the history tells, the same in each part of a
batch; of a history the largest magnitude that the part has seen. The whole batch's is the largest of its parts'.
"""

from typing import Any

import tensorflow as tf

from kparallel.data.share import Share
from kparallel.engine.replica import Replica
from kparallel.engine.replica_result import ReplicaResult
from kparallel.errors import ModelError

__all__: list[str] = []


def overwritten(replica: Replica, share: Share, result: ReplicaResult) -> dict[int, tf.Tensor]:
    """Return the new value of each variable that is overwritten, by its id, largest over the replicas.

    Args:
        replica: This one.
        share: Its rows.
        result: What its passes left.

    Raises:
        ModelError: Such a variable is not one of Keras's float8 layers', so that nobody knows how parts go together.
    """
    largest: dict[int, tf.Tensor] = {}
    for s, stage in enumerate(replica.pipeline.stages):
        found = [(stage.weights[w], value) for w, value in result.overwritten[s].items()]
        for variable, _ in found:
            if replica.parts > 1 and id(variable) not in stage.float8:
                raise ModelError(
                    f"Expected no variables that are overwritten with their gradient but those of Keras's float8 "
                    f"layers, received {variable.path!r} in a batch divided into {replica.parts}: nothing "
                    "tells how the parts' values make the whole batch's. Use one replica and one microbatch."
                )
        with tf.name_scope(f"reduce{s}"), tf.device(replica.devices[s]):
            values = _largest(replica, s, [value for _, value in found], share)
        for (variable, _), value in zip(found, values, strict=True):
            earlier = largest.get(id(variable))  # Of another stage's call: gradients add up, as on one device.
            largest[id(variable)] = value if earlier is None else earlier + value
    return largest


def _largest(replica: Replica, s: int, values: list[Any], share: Share) -> list[tf.Tensor]:
    """Return the largest of the replicas' values, in one collective."""
    if not values or replica.is_single:
        return values
    flat = tf.concat([tf.reshape(value, [-1]) for value in values], 0)
    flat = flat if share.count else tf.fill(flat.shape, flat.dtype.min)
    whole = tf.reduce_max(tf.stack(replica.communicators[s].all_gather([flat])[0]), 0)
    parts = tf.split(whole, [value.shape.num_elements() for value in values])
    return [tf.reshape(part, value.shape) for part, value in zip(parts, values, strict=True)]
