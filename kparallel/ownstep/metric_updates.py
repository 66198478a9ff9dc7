"""Whether what is added to a metric is a sum over a replica's rows, where the graph of the update does not tell."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from kparallel.metric.additive import is_additive
from kparallel.ownstep.traced import Traced
from kparallel.stage.dependence import Dependence

__all__: list[str] = []


def adds_up(metric: Any, args: Sequence[Any], kwargs: Mapping[str, Any], traced: Traced) -> bool:
    """Tell what an update of a metric is of the rows: a sum, or else a mean.

    Args:
        metric: One of the model's.
        args, kwargs: What its `update_state` is called with.
        traced: Follows the replica that calls it.
    """
    size = traced.size
    floats = [leaf for leaf in keras.tree.flatten((args, kwargs)) if tf.is_tensor(leaf) and leaf.dtype.is_floating]
    if is_additive(metric) and all(leaf.shape.rank and leaf.shape[0] in (size, None) for leaf in floats[:1]):
        return True
    if isinstance(metric, keras.metrics.Sum) and traced.sums:
        # Of a loss into which random numbers enter the graph does not tell.
        return any(traced.rows.of(leaf) is not Dependence.NONE for leaf in floats)
    # A mean that counts a scalar by the rows, as `sample_weight=tf.shape(x)[0]` does.
    weight = kwargs.get("sample_weight", args[1] if len(args) == 2 else None)
    if not isinstance(metric, keras.metrics.Mean) or not tf.is_tensor(weight) or weight.shape.rank:
        return False
    if size is not None:
        return _known_number(weight) == size
    return traced.rows.of(weight) is Dependence.SUM


def _known_number(tensor: tf.Tensor) -> int | None:
    """Return the value of a scalar that is known when it is traced, such as an entry of a known shape."""
    while tensor.op.type in ("Cast", "Identity"):
        tensor = tensor.op.inputs[0]
    value = tf.get_static_value(tensor)
    if value is None and tensor.op.type == "StridedSlice":
        whole, begin = (tf.get_static_value(each) for each in tensor.op.inputs[:2])
        value = None if whole is None or begin is None else whole[begin[0]]
    return None if value is None else int(value)
