"""Compresses gradients while they travel between replicas: a cast to a smaller dtype."""

from typing import Any

import tensorflow as tf

from kparallel.errors import PlanError

__all__: list[str] = []

_DTYPES = ("bfloat16", "float16")


def check_compression(dtype: str | None) -> None:
    """Check the dtype in which gradients are to travel.

    Raises:
        PlanError: The dtype is not supported.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise PlanError(f"Expected gradient_compression None, 'bfloat16' or 'float16', received {dtype!r}.")


def compressed(gradients: list[Any], dtype: str | None) -> list[Any]:
    """Return gradients in the dtype in which they travel; None leaves them unchanged."""
    if dtype is None:
        return gradients
    # Gradients that are half precision already, or integers, travel as they are.
    return [_cast(g, tf.as_dtype(dtype)) if g.dtype in (tf.float32, tf.float64) else g for g in gradients]


def restored(sums: list[Any], gradients: list[Any]) -> list[Any]:
    """Return sums in the dtypes of the gradients before compression."""
    return [s if s.dtype == g.dtype else _cast(s, g.dtype) for s, g in zip(sums, gradients, strict=True)]


def _cast(value: Any, dtype: tf.DType) -> Any:
    if isinstance(value, tf.IndexedSlices):
        # The indices keep their dtype: rounded, they would name other rows.
        return tf.IndexedSlices(tf.cast(value.values, dtype), value.indices, value.dense_shape)
    return tf.cast(value, dtype)
