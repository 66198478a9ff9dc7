"""Refuses what metrics compare only for some numbers of rows, since a share may have just that number.

```text
targets [rows]    outputs [rows, 3]      6 rows    [6] and [6, 3] do not broadcast: plain Keras fails
                                         3 rows    [3] and [3, 3] do: each output would meet another row's target
```

Sample weights and masks may broadcast in the same way.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.functions import traced
from kparallel.compat.tensors import keras_mask, set_mask
from kparallel.errors import DataError

__all__: list[str] = []


def check_metrics(metrics: Any, y_true: Any, y_pred: Any, sample_weight: Any) -> None:
    """Check that metrics take targets, outputs and weights whatever the number of rows.

    Args:
        metrics: Keras's container of the compiled metrics, built, each of which is updated with parts of a batch.
        y_true, y_pred, sample_weight: Those of a share. Nothing is looked at where one is no dense tensor.

    Raises:
        DataError: A metric takes them for some numbers of rows only.
    """
    data = (y_true, y_pred, sample_weight)
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    masks = [mask for mask in map(keras_mask, keras.tree.flatten(y_pred)) if mask is not None]
    tensors = [*leaves, *masks]
    if not all(isinstance(each, tf.Tensor) and each.shape.rank for each in tensors):
        return
    # Of one rank, the rows of all meet.
    if len({each.shape.rank for each in tensors}) == 1:
        return
    others = {1, *(size for each in tensors for size in each.shape[1:])}
    rows = next(number for number in count(2) if number not in others)

    def update(data: Any, masks: list[tf.Tensor]) -> None:
        rest = iter(masks)
        for given, leaf in zip(keras.tree.flatten(y_pred), keras.tree.flatten(data[1]), strict=True):
            if keras_mask(given) is not None:
                set_mask(leaf, next(rest))
        metrics.stateless_update_state(metrics.stateless_reset_state(), *data[:2], sample_weight=data[2])

    def spec(leaf: Any) -> Any:
        return None if leaf is None else tf.TensorSpec((rows, *leaf.shape[1:]), leaf.dtype)

    with _noting_update(metrics.metrics) as last:
        try:
            traced(update).get_concrete_function(keras.tree.map_structure(spec, data), [spec(mask) for mask in masks])
        except ValueError as error:
            if not last:
                raise
            raise _refusal(*last[-1]) from error


def _refusal(metric: Any, given: Sequence[Any]) -> DataError:
    true, pred, *weights = (_shape(each) for each in given if each is not None)
    weighted = f" and sample weights of shape {weights[0]}" if weights else ""
    return DataError(
        f"Expected targets{' and sample weights' if weights else ''} that metric {metric.name!r} compares with outputs "
        f"of shape {pred} row by row, received targets of shape {true}{weighted}, which do not broadcast to them for "
        "every number of rows. Choose a metric of such targets, such as sparse_categorical_accuracy for class "
        f"indices, or give {'both' if weights else 'targets'} of shape {pred}."
    )


def _shape(tensor: tf.Tensor) -> str:
    return f"(rows{''.join(f', {size}' for size in tensor.shape[1:])})"


@contextmanager
def _noting_update(metrics: Sequence[keras.metrics.Metric]) -> Iterator[list[tuple[Any, Sequence[Any]]]]:
    """Take note of which metric is updated with what, so that a refusal names it."""
    noted: list[tuple[Any, Sequence[Any]]] = []

    def noting(metric: Any, update: Any) -> Any:
        def updated(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            noted.append((metric, (y_true, y_pred, sample_weight)))
            return update(y_true, y_pred, sample_weight=sample_weight)

        return updated

    for metric in metrics:
        # The entry of the instance hides the method of the class. Not `setattr`, by which Keras tracks attributes.
        metric.__dict__["update_state"] = noting(metric, metric.update_state)
    try:
        yield noted
    finally:
        for metric in metrics:
            del metric.__dict__["update_state"]
