"""Finds how what a call computes depends on the rows of its batch: the call is traced and read, never run."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from kparallel.compat.distribute import one_replica_view
from kparallel.stage.dependence import Dependence, RowDependence

__all__: list[str] = []

Updates = Callable[[Any, Any, Any, Any], tuple[list[Any], list[Any], list[Any]]]


def dependence(value: Callable[..., tf.Tensor], arguments: Sequence[Any]) -> Dependence:
    """Return how a value depends on the rows that it is computed from.

    Args:
        value: A function of `arguments`.
        arguments: Structures of tensors whose first dim is the rows, or None.

    Returns:
        The dependence; `OTHER` if the value cannot be traced with an unknown number of rows.
    """

    # Posed as the update of a variable that starts at 0.

    def updates(_: Any, state: Any, inputs: Any, masks: Any) -> tuple[list[Any], list[Any], list[Any]]:
        computed = value(*inputs)
        start = tf.zeros((), computed.dtype)
        return [start], [start + computed], []

    return dependences(updates, ([], [], list(arguments), []), [])[0]


def dependences(updates: Updates, arguments: tuple[Any, ...], by_rows: Sequence[bool]) -> list[Dependence]:
    """Return how the variables that a call updates depend on the rows.

    Args:
        updates: A function of (weights, state, inputs, masks). It returns the old values, the new values (None for one
            that does not change), and those of the old values that are random.
        arguments: The arguments of one call.
        by_rows: `[v]`: whether a state variable holds a value for each row, as inputs do.

    Returns:
        One dependence for each old value, `NONE` where nothing changes. A call that cannot be traced with an unknown
        number of rows is traced with its own. Then the number of rows is a constant of the graph, from which state may
        have been computed unseen, so all state is `OTHER`. Weights keep what the graph shows.
    """
    try:
        return _traced(updates, _specs(arguments, by_rows), by_rows)
    except Exception:  # A layer that needs the number of rows may raise anything.
        result = _traced(updates, tf.nest.map_structure(_spec, arguments), by_rows)
        weights = len(arguments[0])
        return result[:weights] + [Dependence.OTHER] * len(result[weights:])


def _traced(updates: Updates, specs: tuple[Any, ...], by_rows: Sequence[bool]) -> list[Dependence]:
    """Trace the updates and return their dependences; the traced function is never run."""
    result: list[Dependence] = []

    def call(weights: Any, state: Any, inputs: Any, masks: Any) -> None:
        old_values, new_values, random = updates(weights, state, inputs, masks)
        row_state = [value for value, holds_rows in zip(state, by_rows, strict=True) if holds_rows]
        data = tf.nest.flatten([inputs, masks, row_state], expand_composites=True)
        # Inputs, masks and state of rows have the rows as their first dim, whose size the trace does not know.
        rows = RowDependence([tensor for tensor in data if tf.is_tensor(tensor)], random)
        for old, new in zip(old_values, new_values, strict=True):
            result.append(Dependence.NONE if new is None else rows.of_update(new, old))

    with one_replica_view():
        tf.function(call, autograph=False).get_concrete_function(*specs)
    return result


def _specs(arguments: tuple[Any, ...], by_rows: Sequence[bool]) -> tuple[Any, ...]:
    """Return the specs of the arguments, with an unknown number of rows."""
    weights, state, *data = tf.nest.map_structure(_spec, arguments)
    state = [_without_rows(spec) if holds_rows else spec for spec, holds_rows in zip(state, by_rows, strict=True)]
    return (weights, state, *(tf.nest.map_structure(_without_rows, part) for part in data))


def _spec(value: Any) -> Any:
    return None if value is None else tf.type_spec_from_value(value)


def _without_rows(spec: Any) -> Any:
    if spec is None or not spec.shape.rank:
        return spec
    shape = [None, *spec.shape[1:]]
    if isinstance(spec, tf.RaggedTensorSpec):
        return tf.RaggedTensorSpec(shape, spec.dtype, spec.ragged_rank, spec.row_splits_dtype)
    return type(spec)(shape, spec.dtype)
