"""Loss terms as numerators and statistics, so that a loss of shares is the loss of the whole batch.

The mean over a batch that is divided among replicas is sum(numerators) / sum(denominators). Dividing on each replica
and averaging the quotients is wrong as soon as the sizes, masks or weights of the shares differ.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.distribute import whole_losses
from kparallel.compat.losses import reduced_dims, wrapped_function
from kparallel.compat.tensors import keras_mask
from kparallel.errors import DataError, ModelError

__all__: list[str] = []

LossWeight = Any  # None, a number, a tensor or a variable, as `compile` takes them.
Factors = Callable[[list[tf.Tensor]], tuple[tf.Tensor, tf.Tensor]]
_LOSSES = ("keras.losses", "keras.src.losses.")  # Modules of Keras's losses.
_REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none", None)


@dataclass(frozen=True)
class Term:
    """One loss term on one replica.

    Args:
        numerator: A scalar that is differentiated.
        statistics: Scalars that are summed over microbatches and replicas, and then make the factors.
        factors: Maps the summed statistics to (factor for the gradient, factor for the reported value).
        by_rows: Whether each statistic is a constant that is proportional to the number of rows. Then the sums follow
            from the row counts, without communication.
    """

    numerator: tf.Tensor
    statistics: list[tf.Tensor]
    factors: Factors
    by_rows: bool = False


def _same(factor: Callable[[list[tf.Tensor]], tf.Tensor]) -> Factors:
    # Most terms report what they differentiate. The exception is a loss without a reduction, see `_vector_term`.
    def factors(statistics: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        value = factor(statistics)
        return value, value

    return factors


def as_scalar(weight: LossWeight, dtype: Any) -> tf.Tensor:
    """Return a loss weight as a scalar tensor: 1 for None, the current value of a variable."""
    if weight is None or isinstance(weight, int | float):
        return tf.constant(1.0 if weight is None else weight, dtype)
    return tf.cast(keras.ops.convert_to_tensor(weight), dtype)


def summed(value: tf.Tensor) -> Term:
    """Return the term of a value that is summed over the replicas."""
    return Term(tf.reduce_sum(value), [], _same(lambda _: tf.constant(1.0, tf.float64)), by_rows=True)


def row_mean(value: tf.Tensor, count: int) -> Term:
    """Return the term of a scalar that is a mean over each replica's rows."""
    # one replica, one microbatch     numerator n = mean * rows      statistics [rows]
    # whole batch                     loss = (sum of n) * 1 / (sum of rows)
    rows = tf.constant(count, tf.float64)
    return Term(
        value * tf.constant(count, value.dtype),
        [rows],
        _same(lambda s: tf.math.divide_no_nan(tf.ones_like(s[0]), s[0])),
        by_rows=True,
    )


def added_term(value: tf.Tensor, count: int) -> Term:
    """Return the term of an `add_loss` value: a scalar is a mean over the rows, any other tensor is summed."""
    return summed(value) if value.shape.rank else row_mean(value, count)


def is_batch_coupled(loss: Any) -> bool:
    """Return whether a loss is known to need the whole batch at once.

    This holds for Keras's losses that compare rows, whether passed as a class, a function or a name. It also holds for
    a loss that overrides `__call__`, which contains the reduction: its value for a part of a batch has no known
    meaning.
    """
    if type(loss).__call__ is not keras.losses.Loss.__call__:
        return True
    function = wrapped_function(loss)
    # These two reduce over all dims unless `axis` says otherwise, so a ratio of sums over the whole batch results.
    sums_all_dims = function in (keras.losses.dice, keras.losses.tversky) and not reduced_dims(loss)
    return function is keras.losses.circle or sums_all_dims or 0 in reduced_dims(loss)


def loss_values(loss: Any, y_true: Any, y_pred: Any) -> tf.Tensor:
    """Return the values of a Keras loss before its reduction: a tensor with a value for each row, or a scalar."""

    def cast(leaf: Any) -> Any:
        return keras.ops.convert_to_tensor(leaf, dtype=loss.dtype)

    y_true, y_pred = (keras.tree.map_structure(cast, each) for each in (y_true, y_pred))
    with whole_losses():  # A loss of the user's may call one of Keras's.
        return cast(loss.call(y_true, y_pred))


def loss_term(
    loss: Any, y_true: Any, y_pred: Any, sample_weight: Any, count: int, scalar: str, whole: int | None
) -> Term:
    """Split one Keras loss into its numerator and statistics.

    Args:
        loss: A `keras.losses.Loss`.
        y_true, y_pred, sample_weight: The rows.
        count: The number of rows.
        scalar: The meaning of a loss that returns a scalar: a `"mean"` over the rows, or a `"sum"`.
        whole: The number of rows of the whole batch, or None if it is not known.

    Returns:
        The term, equal to `loss(y_true, y_pred, sample_weight)` once summed over replicas.

    Raises:
        ModelError: The loss has a reduction that Keras does not know.
        DataError: The weights or the mask have other dims than the values of the loss.
    """
    _check_reduction(loss)
    dtype = loss.dtype
    values = loss_values(loss, y_true, y_pred)
    mask = _both(keras_mask(y_pred), keras_mask(values))
    weight = None if sample_weight is None else keras.ops.convert_to_tensor(sample_weight, dtype=dtype)
    # As Keras: a mask becomes a weight, and the mean is taken over the valid entries.
    valid = None  # (number of valid entries, number of entries)
    if mask is not None:
        flags = tf.cast(mask, dtype)
        valid = [tf.reduce_sum(flags), tf.cast(tf.size(flags), dtype)]
        # Keras scales the mask by total / valid before it multiplies. Here the scale is left to the factor, because
        # both numbers are known only after they are summed over all parts.
        weight = flags if weight is None else _times(weight, flags, count, whole)
    if not values.shape.rank:
        return _scalar_term(values, weight, valid, count, scalar, loss.reduction)
    if weight is not None:
        # values [rows, positions], weight [rows, 1] or [rows, positions]      multiplied as Keras broadcasts them
        values, weight = _same_rank(values, tf.cast(weight, values.dtype), count, whole)
        values = values * weight
    return _vector_term(values, weight, valid, loss.reduction, count if is_rowwise(loss) else None)


def _check_reduction(loss: Any) -> None:
    """Refuse a loss with an unknown reduction, which a subclass or an assignment may have set."""
    if loss.reduction not in _REDUCTIONS:
        raise ModelError(
            f"Expected a loss with one of the reductions {_REDUCTIONS}, received {type(loss).__name__} with "
            f"{loss.reduction!r}. Reduce in a function of your own that returns a scalar, and pass that to compile."
        )


def reduces_rows(loss: Any, y_pred: Any) -> bool:
    """Return whether the `axis` of a loss, perhaps counted from the end, is the rows of outputs.

    Args:
        loss: A `keras.losses.Loss`.
        y_pred: The outputs.
    """
    ranks = {rank for rank in _ranks(y_pred) if rank}
    return any(axis % rank == 0 for axis in reduced_dims(loss) for rank in ranks)


def is_rowwise(loss: Any) -> bool:
    """Return whether a loss is one of Keras's: of outputs with inner dims it has the same number of values a row."""
    parts = (type(loss), wrapped_function(loss) or type(loss))
    # A user's loss may return any number of values for a row, also one that depends on the row. A function of Keras's
    # that is no loss, such as `keras.ops.vdot`, may do anything with the rows.
    return all(part.__module__.startswith(_LOSSES) for part in parts)


def has_inner_dims(y_pred: Any) -> bool:
    """Return whether outputs have more dims than the rows.

    Else the last dim, over which Keras's losses reduce, is the rows: some of them sum over it, some normalize by it.
    """
    return all(rank is not None and rank > 1 for rank in _ranks(y_pred))


def _ranks(y_pred: Any) -> list[int | None]:
    return [leaf.shape.rank for leaf in keras.tree.flatten(y_pred)]


def _vector_term(
    values: tf.Tensor, weight: Any, valid: list[tf.Tensor] | None, reduction: str | None, rows: int | None
) -> Term:
    # The size follows from `rows` and the inner dims, which are the same on all replicas. Dim 0 is not used, because it
    # may be statically unknown on one replica and known on another.
    inner = values.shape[1:].num_elements()
    is_constant = rows is not None and inner is not None
    size = tf.constant(rows * inner, tf.float64) if is_constant else _size(values)
    one = tf.ones_like(size)
    total = tf.reduce_sum(values)
    if reduction == "sum":
        return summed(total)
    if reduction in (None, "none"):
        # Keras differentiates the sum of the values, and logs their mean.
        return Term(total, [size], lambda s: (one, tf.math.divide_no_nan(one, s[0])), is_constant)
    if reduction == "mean_with_sample_weight" and weight is not None:
        mass = tf.cast(tf.reduce_sum(weight), tf.float64)
        return Term(total, [mass], _same(lambda s: tf.math.divide_no_nan(one, s[0])))
    if valid is None or reduction == "mean_with_sample_weight":
        return Term(total, [size], _same(lambda s: tf.math.divide_no_nan(one, s[0])), is_constant)
    # The mean with a mask. Keras multiplies valid entries by total/valid of the mask, then divides by the size.
    statistics = [size, *(tf.cast(v, tf.float64) for v in valid)]
    return Term(total, statistics, _same(lambda s: tf.math.divide_no_nan(tf.math.divide_no_nan(s[2], s[1]), s[0])))


def _size(values: tf.Tensor) -> tf.Tensor:
    """Return the number of entries; a constant if the static shape determines it, so that it needs no forward pass."""
    static = values.shape.num_elements()
    return tf.cast(tf.size(values), tf.float64) if static is None else tf.constant(static, tf.float64)


def _scalar_term(
    value: tf.Tensor, weight: Any, valid: list[tf.Tensor] | None, count: int, scalar: str, reduction: str | None
) -> Term:
    base = row_mean(value, count) if scalar == "mean" else summed(value)
    if weight is None:
        return base
    # Keras multiplies the scalar by each weight and then reduces, so the weights' sum or mean is a factor.
    number = len(base.statistics)
    mass = [tf.reduce_sum(weight), tf.cast(tf.size(weight), weight.dtype), *(valid or [])]

    def factors(statistics: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        # The order of `Term.statistics` below: those of the base first.
        of_base, (total, size, *entries) = statistics[:number], statistics[number:]
        mean = tf.math.divide_no_nan(total, size)
        if entries and reduction in ("sum_over_batch_size", "mean"):
            mean *= tf.math.divide_no_nan(entries[1], entries[0])  # As in `_vector_term`.
        if reduction == "mean_with_sample_weight":
            mean = tf.math.divide_no_nan(total, total)
        # Without a reduction Keras differentiates the sum, and logs the mean.
        scale = total if reduction in ("sum", "none", None) else mean
        of_mean = base.factors(of_base)[0]
        return of_mean * scale, of_mean * (total if reduction == "sum" else mean)

    return Term(base.numerator, [*base.statistics, *(tf.cast(each, tf.float64) for each in mass)], factors)


def _both(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return first if second is None else second
    return first & second


def _times(weight: tf.Tensor, flags: tf.Tensor, count: int, whole: int | None) -> tf.Tensor:
    flags, weight = _same_rank(flags, weight, count, whole)
    return weight * flags


def _same_rank(first: tf.Tensor, second: tf.Tensor, count: int, whole: int | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Squeeze or expand a last dim of 1 where ranks differ by one, as Keras does; refuse other ranks that differ.

    Plain Keras fails there, as (6, 3) and (6,) do not broadcast. A share of 3 rows would: each position of every row
    would get the weight of another row. In a batch that is not divided they meet as in plain Keras.
    """
    rank_1, rank_2 = first.shape.rank, second.shape.rank
    if rank_1 == rank_2 + 1 and first.shape[-1] == 1:
        return (first, second[..., None]) if rank_2 == 1 else (first[..., 0], second)
    if rank_2 == rank_1 + 1 and second.shape[-1] == 1:
        return (first[..., None], second) if rank_1 == 1 else (first, second[..., 0])
    # A batch of a single row broadcasts to its own positions.
    meet = whole == 1 or (count == whole and _broadcast(first, second))
    if rank_1 != rank_2 and not meet:
        raise DataError(
            f"Expected sample weights and masks with the dims of the loss values, of shape {tuple(first.shape)} here, "
            f"or of their rows with a last dim of 1, received shape {tuple(second.shape)}, whose dims would broadcast "
            "to others. For a weight a row of a loss with several values a row, say sample_weight[:, None]."
        )
    return first, second


def _broadcast(first: tf.Tensor, second: tf.Tensor) -> bool:
    """Return whether two shapes broadcast as far as they are known."""
    return all(
        None in sizes or 1 in sizes or sizes[0] == sizes[1]
        for sizes in zip(first.shape[::-1], second.shape[::-1], strict=False)
    )
