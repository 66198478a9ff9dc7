"""What one replica has of a batch, and for how much it counts in the whole."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

__all__: list[str] = []


@dataclass(frozen=True)
class Portion:
    """What one replica has of a batch.

    Args:
        rows: How many rows.
        part: Which part of the batch's rows they are, between 0 and 1.
        filled: Which part of the replicas that have rows this one is; 0 without any.
        sums: Whether losses are sums over rows, not means.
    """

    rows: int
    part: Any
    filled: Any
    sums: bool

    @property
    def factor(self) -> Any:
        """By which this replica's gradients count: its part where they are means over rows, 1 where they are sums."""
        return float(self.rows > 0) if self.sums else self.part

    def counted(self, value: tf.Tensor) -> tf.Tensor:
        """Return a value, or zeros for what the row of an empty share gave."""
        return value if self.rows else tf.zeros_like(value)

    def averaged(self, value: tf.Tensor) -> tf.Tensor:
        """Return this replica's part of an average over rows."""
        return self.counted(scaled(value, self.part))

    def of_all(self, value: tf.Tensor) -> tf.Tensor:
        """Return what is equal on all replicas times the sum of their factors."""
        return self.counted(over(value, self.filled)) if self.sums else value

    def one_of_all(self, value: tf.Tensor) -> tf.Tensor:
        """Return a value so that the replicas' sum by their factors is an average."""
        return scaled(value, self.filled) if self.sums else value


def scaled(value: tf.Tensor, factor: Any) -> tf.Tensor:
    """Return a value times a factor: a number of Python's, or a float64 scalar."""
    return value if isinstance(factor, float) and factor == 1 else value * _number(factor, value.dtype)


def over(value: tf.Tensor, factor: Any) -> tf.Tensor:
    """Return a value divided by a factor."""
    plain = isinstance(factor, float) and factor in (0, 1)  # 0 is the factor of an empty share, which counts nowhere.
    return value if plain else value / _number(factor, value.dtype)


def _number(factor: Any, dtype: tf.DType) -> tf.Tensor:
    """Return a factor in a dtype; `tf.cast` alone takes a number of Python's through float32."""
    return tf.constant(factor, dtype) if isinstance(factor, float) else tf.cast(factor, dtype)


def wide(value: tf.Tensor) -> tf.Tensor:
    """Return a float as it is, anything else as what sums do not overflow."""
    return value if value.dtype.is_floating else tf.cast(value, tf.int64)
