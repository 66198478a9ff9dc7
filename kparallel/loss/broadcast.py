"""Refuses targets whose rows would broadcast to another dim of the outputs.

```text
targets [rows]    outputs [rows, 3]      6 rows    [6] and [6, 3] do not broadcast: plain Keras fails
                                         3 rows    [3] and [3, 3] do: each output would meet another row's target
```

The batch of plain Keras may not broadcast where a share of it, or a microbatch, has just the number of rows that does.
"""

from itertools import count
from typing import Any

import tensorflow as tf

from kparallel.compat.functions import traced
from kparallel.errors import DataError
from kparallel.loss.term import loss_values

__all__: list[str] = []


def check_targets(loss: Any, y_true: Any, y_pred: Any) -> None:
    """Check that a loss takes targets and outputs whatever the number of rows.

    Args:
        loss: A loss that is computed from parts of a batch.
        y_true, y_pred: The targets and outputs of a share. Other structures than tensors are not looked at.

    Raises:
        DataError: It takes them for some numbers of rows only.
    """
    if not all(isinstance(each, tf.Tensor) and each.shape[1:].is_fully_defined() for each in (y_true, y_pred)):
        return
    # Of one rank, the rows of both meet.
    if y_true.shape.rank == y_pred.shape.rank:
        return
    others = {*y_true.shape[1:], *y_pred.shape[1:], 1}
    rows = next(number for number in count(2) if number not in others)
    specs = [tf.TensorSpec((rows, *each.shape[1:]), each.dtype) for each in (y_true, y_pred)]
    try:
        traced(lambda *both: loss_values(loss, *both)).get_concrete_function(*specs)
    except ValueError as error:
        true, pred = (f"(rows{''.join(f', {size}' for size in each.shape[1:])})" for each in (y_true, y_pred))
        raise DataError(
            f"Expected targets that {loss.name} compares with outputs of shape {pred} row by row, received targets of "
            f"shape {true}, which do not broadcast to them for every number of rows. Give targets of shape {pred}, or "
            "a last layer with as many outputs as there are targets."
        ) from error
