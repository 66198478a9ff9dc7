"""Which metrics may be updated on each replica and added up."""

from collections.abc import Sequence
from typing import Any

import keras

from kparallel.errors import ModelError
from kparallel.private import reduced_dims, wrapped_function

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


def refuse_updates(metrics: Sequence[keras.metrics.Metric], scope: Any, where: str, way_out: str) -> None:
    """Make sure that a call has updated no metric: it saw the rows of one replica, or of one microbatch, alone.

    Args:
        metrics: Those that it might have updated.
        scope: The `keras.StatelessScope` around the call.
        where: What was called.
        way_out: What the user may do.

    Raises:
        ModelError: It has.
    """
    for metric in metrics:
        if any(scope.get_current_value(variable) is not None for variable in metric.variables):
            raise ModelError(
                f"Metric {metric.name!r} is updated in {where}, which sees one replica's rows alone. {way_out}"
            )


def state_change(metric: keras.metrics.Metric, *args: Any, **kwargs: Any) -> list[Any]:
    """Return by how much one update changes a metric's variables, starting from its reset state."""
    start = metric.stateless_reset_state()
    end = metric.stateless_update_state(start, *args, **kwargs)
    return [new - old for new, old in zip(end, start, strict=True)]
