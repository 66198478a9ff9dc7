"""Finds numbers of rows that are written into a step: beyond them it does otherwise than with fewer rows.

```text
penalty = mean(slope(real[:64]))     5 rows, as few as are compared     all of them, whole and divided
                                     128 rows                           half of them whole, all of them divided
```
"""

from typing import Any

import tensorflow as tf

from kparallel.ownstep.rows import StepRows
from kparallel.stage.dependence import Dependence, row_bounds

__all__: list[str] = []

_COMPARES = ("Minimum", "Maximum", "Less", "LessEqual", "Greater", "GreaterEqual")


def written_sizes(operation: Any, rows: StepRows) -> list[int]:
    """Return the numbers of rows at which an operation slices rows, or with which it compares counts and places.

    Args:
        operation: Of the step's graph.
        rows: Tells how its tensors depend on the rows.
    """
    bounds = row_bounds(operation)
    if any(bounds):
        return [abs(bound) for bound in bounds if rows.of(operation.inputs[0]) is Dependence.ROWS]
    if operation.type not in _COMPARES or not operation.inputs[0].dtype.is_integer:
        return []
    one, other = operation.inputs
    pairs = [(one, tf.get_static_value(other)), (other, tf.get_static_value(one))]
    # Integers of the data are values for each row; the number of rows is a sum, and their places are neither.
    counts = (Dependence.SUM, Dependence.OTHER)
    return [int(abs(number)) for counted, number in pairs if _is_scalar(number) and rows.of(counted) in counts]


def _is_scalar(number: Any) -> bool:
    return number is not None and number.ndim == 0
