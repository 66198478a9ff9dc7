"""Metrics whose state after a batch is the sum of their states after its parts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.losses import reduced_dims, wrapped_function
from kparallel.errors import ModelError

__all__: list[str] = []

# Modules whose functions give a value for each row, but for some.
_BY_ROWS = ("keras.src.losses.", "keras.src.metrics.")
_OF_ALL_ROWS = (keras.losses.dice, keras.losses.tversky, keras.losses.circle)


def is_additive(metric: Any) -> bool:
    """Return whether a metric's state after a batch is the sum of its states after the batch's shares.

    This holds for Keras's own metrics, except those that reduce over the rows, such as `CosineSimilarity(axis=0)` or a
    loss object that is passed as a metric. A metric that averages a user's function may see a scalar for each batch,
    and a user's class may do anything. These are updated once, with the whole batch.
    """
    if not type(metric).__module__.startswith("keras."):
        return False
    # Counted from the end, all but the last dim may be the rows.
    if any(axis == 0 or axis < -1 for axis in reduced_dims(metric)):
        return False
    # `MeanMetricWrapper` is Keras's own class, whatever it averages. A loss object reduces over the rows by itself: its
    # value counts once for each call. So do some functions, such as `keras.ops.mean`.
    function = wrapped_function(metric)
    if isinstance(function, keras.losses.Loss) or function in _OF_ALL_ROWS:
        return False
    return function is None or getattr(function, "__module__", "").startswith(_BY_ROWS)


@contextmanager
def noting_sums(metrics: Sequence[keras.metrics.Metric], added: set[int]) -> Iterator[None]:
    """Find the metrics that are updated with rows only: their states add up over the parts of a batch.

    Args:
        metrics: The metrics that may be updated.
        added: A set to which the ids of their variables are added. A metric of Keras's that receives a tensor of one
            dim takes its mean and counts it as 1; how the parts of such a mean are combined is found from the graph.
    """
    updates = {id(metric): metric.update_state for metric in metrics if is_additive(metric)}
    by_rows: dict[int, bool] = {}

    def noted(metric: Any) -> Any:
        def update(*args: Any, **kwargs: Any) -> Any:
            # Integers, such as labels, do not show whether something was averaged before.
            floats = [leaf for leaf in keras.tree.flatten((args, kwargs)) if _is_float(leaf)]
            of_rows = bool(floats) and all(len(leaf.shape) > 1 and leaf.shape[0] is None for leaf in floats)
            # One update with anything else is enough to make the metric's change unknown.
            by_rows[id(metric)] = of_rows and by_rows.get(id(metric), True)
            return updates[id(metric)](*args, **kwargs)

        return update

    watched = [metric for metric in metrics if id(metric) in updates]
    for metric in watched:
        # The entry of the instance hides the method of the class; deleting it brings the method back.
        metric.__dict__["update_state"] = noted(metric)  # Not `setattr`, by which Keras tracks attributes.
    try:
        yield
    finally:
        for metric in watched:
            del metric.__dict__["update_state"]
    added.update(id(v) for metric in watched if by_rows.get(id(metric)) for v in metric.variables)


def _is_float(leaf: Any) -> bool:
    return bool(tf.is_tensor(leaf) and leaf.dtype.is_floating)


def refuse_divided(metric: keras.metrics.Metric, where: str, way_out: str) -> ModelError:
    """Return the error for a metric whose states after the parts of a batch do not determine the one after the batch.

    Args:
        metric: The metric.
        where: The code that updates it, in the words of the message.
        way_out: A sentence on what the user can do.
    """
    return ModelError(
        f"Metric {metric.name!r} is updated in {where}, which sees a part of a batch alone, with what is neither a sum "
        f"nor a mean over the rows. {way_out}"
    )


def state_change(metric: keras.metrics.Metric, *args: Any, **kwargs: Any) -> list[Any]:
    """Return the change of a metric's variables by one update that starts from its reset state."""
    # From the reset state, so that what remains is what these rows add, whatever the metric holds.
    start = metric.stateless_reset_state()
    end = metric.stateless_update_state(start, *args, **kwargs)
    return [new - old for new, old in zip(end, start, strict=True)]
