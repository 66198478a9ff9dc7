"""What the other callbacks of a `fit` have counted: it is written with a checkpoint, and they go on from it.

Keras begins these counts anew with each `fit`. A resumed run whose `EarlyStopping` had forgotten its patience would
train more epochs than one that nothing disturbed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kparallel.compat.callbacks import best_weights, counted, set_best_weights, set_counted
from kparallel.errors import CheckpointError

__all__: list[str] = []


def callback_states(callbacks: Sequence[Any]) -> tuple[dict[str, Any], list[Any]]:
    """Return what callbacks have counted, which JSON can hold, and the weights that they keep.

    A callback of the user's own is asked by `get_state`.

    Args:
        callbacks: Of a `fit`.

    Raises:
        CheckpointError: JSON cannot hold what a callback of the user's own returns.
    """
    counts: dict[str, Any] = {}
    weights: list[Any] = []
    for name, callback in _named(callbacks):
        kept = best_weights(callback)
        # kept     how many of `weights` are this callback's
        own = _as_it_is_now(callback) if _has_own_state(callback) else None
        counts[name] = {"counted": counted(callback), "own": own, "kept": len(kept)}
        weights += kept
    return counts, weights


def kept_weights(counts: Mapping[str, Any]) -> int:
    """Return how many weights belong to what `callback_states` returned."""
    return sum(state["kept"] for state in counts.values())


def restore_callbacks(
    callbacks: Sequence[Any], model: keras.Model, counts: Mapping[str, Any], weights: Sequence[Any]
) -> None:
    """Let callbacks go on from what those of another process had counted; others begin anew.

    Args:
        callbacks: Of this `fit`, which has begun.
        model: Theirs.
        counts: What `callback_states` returned there.
        weights: And the weights.
    """
    here = dict(_named(callbacks))
    begin = 0
    for name, state in counts.items():
        kept, begin = weights[begin : begin + state["kept"]], begin + state["kept"]
        if name in here:
            set_counted(here[name], state["counted"])
            if _has_own_state(here[name]):
                here[name].set_state(state["own"])
            if kept:
                set_best_weights(here[name], _with_their_dtypes(kept, model))


def _named(callbacks: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the callbacks that count, each with a name that it has in every process that runs the same script."""
    seen: dict[str, int] = {}
    for callback in callbacks:
        if counted(callback) or _has_own_state(callback):
            # One that watches something else has counted something else.
            name = f"{type(callback).__name__} {getattr(callback, 'monitor', '')}".rstrip()
            seen[name] = seen.get(name, 0) + 1
            yield f"{name} {seen[name]}", callback


def _has_own_state(callback: Any) -> bool:
    """Return whether a callback of the user's own says what it has counted."""
    return hasattr(callback, "get_state") and hasattr(callback, "set_state")


def _as_it_is_now(callback: Any) -> Any:
    """Return a copy of what a callback of the user's own says that it has counted.

    A list that the callback goes on filling would be written, in the background, with what came after the step.
    """
    state = callback.get_state()
    try:
        return json.loads(json.dumps(state))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"Expected {type(callback).__name__}.get_state to return what JSON can hold, received {state!r} ({error}). "
            "Return numbers, texts, lists and dicts; float(x) and x.tolist() make them of NumPy's."
        ) from error


def _with_their_dtypes(values: Sequence[Any], model: keras.Model) -> list[Any]:
    """Return weights as read from a file of NumPy's, which knows no bfloat16, with the dtypes of the model's."""
    kinds = [tf.as_dtype(weight.dtype).as_numpy_dtype for weight in model.weights]
    arrays = enumerate(map(np.asarray, values))
    return [array.view(kinds[index]) if array.dtype.kind == "V" else array for index, array in arrays]
