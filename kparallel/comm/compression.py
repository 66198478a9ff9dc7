"""Gradients in fewer bytes while they travel between replicas."""

from typing import Any

import tensorflow as tf

from kparallel.errors import PlanError

__all__: list[str] = []

_WAYS = ("bfloat16", "float16")


def check_compression(way: str | None) -> None:
    """Make sure that a way to compress gradients is known.

    Raises:
        PlanError: It is not.
    """
    if way is not None and way not in _WAYS:
        raise PlanError(f"Expected gradient_compression None, 'bfloat16' or 'float16', received {way!r}.")


def compressed(gradients: list[Any], way: str | None) -> list[Any]:
    """Return gradients in the dtype in which they are to travel; None leaves them as they are."""
    if way is None:
        return gradients
    return [_cast(g, tf.as_dtype(way)) if g.dtype in (tf.float32, tf.float64) else g for g in gradients]


def restored(sums: list[Any], gradients: list[Any]) -> list[Any]:
    """Return sums in the dtypes that the gradients had."""
    return [s if s.dtype == g.dtype else _cast(s, g.dtype) for s, g in zip(sums, gradients, strict=True)]


def _cast(value: Any, dtype: tf.DType) -> Any:
    if isinstance(value, tf.IndexedSlices):
        return tf.IndexedSlices(tf.cast(value.values, dtype), value.indices, value.dense_shape)
    return tf.cast(value, dtype)
