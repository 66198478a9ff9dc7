"""Which metrics may be updated on each replica and added up."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.losses import reduced_dims, wrapped_function
from kparallel.errors import ModelError

__all__: list[str] = []


def is_additive(metric: Any) -> bool:
    """Tell whether a metric's state after a batch is the sum of its states after the batch's shares.

    Keras's own metrics are, but for `CosineSimilarity(axis=0)` and the like. One that averages a user's function
    may see a scalar per batch, and a user's own class may do anything: these are updated once, with the whole batch.
    """
    if not type(metric).__module__.startswith("keras.") or 0 in reduced_dims(metric):
        return False
    function = wrapped_function(metric)
    return function is None or getattr(function, "__module__", "").startswith("keras.")


@contextmanager
def noting_sums(metrics: Sequence[keras.metrics.Metric], added: set[int]) -> Iterator[None]:
    """Note which metrics are updated with rows alone, so that their states add up over the parts of a batch.

    Args:
        metrics: Those that may be updated.
        added: Takes the ids of the variables of those that are. A metric of Keras's that is given numbers of one dim
            takes their mean, and counts it as one: its graph tells how the parts of such a mean go together.
    """
    updates = {id(metric): metric.update_state for metric in metrics if is_additive(metric)}
    seen: dict[int, bool] = {}

    def noted(metric: Any) -> Any:
        def update(*args: Any, **kwargs: Any) -> Any:
            floats = [leaf for leaf in keras.tree.flatten((args, kwargs)) if _is_float(leaf)]
            of_rows = bool(floats) and all(len(leaf.shape) > 1 and leaf.shape[0] is None for leaf in floats)
            seen[id(metric)] = of_rows and seen.get(id(metric), True)
            return updates[id(metric)](*args, **kwargs)

        return update

    watched = [metric for metric in metrics if id(metric) in updates]
    for metric in watched:
        metric.__dict__["update_state"] = noted(metric)
    try:
        yield
    finally:
        for metric in watched:
            del metric.__dict__["update_state"]
    added.update(id(v) for metric in watched if seen.get(id(metric)) for v in metric.variables)


def _is_float(leaf: Any) -> bool:
    return bool(tf.is_tensor(leaf) and leaf.dtype.is_floating)


def refuse_divided(metric: keras.metrics.Metric, where: str, way_out: str) -> ModelError:
    """Return the error about a metric whose state after a batch is not had from those after the batch's parts.

    Args:
        metric: It.
        where: What updates it.
        way_out: What the user may do.
    """
    return ModelError(
        f"Metric {metric.name!r} is updated in {where}, which sees a part of a batch alone, with what is neither a sum "
        f"nor a mean over the rows. {way_out}"
    )


def state_change(metric: keras.metrics.Metric, *args: Any, **kwargs: Any) -> list[Any]:
    """Return by how much one update changes a metric's variables, starting from its reset state."""
    start = metric.stateless_reset_state()
    end = metric.stateless_update_state(start, *args, **kwargs)
    return [new - old for new, old in zip(end, start, strict=True)]
