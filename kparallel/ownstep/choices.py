"""Finds where a step chooses by a number that each replica computes from its own rows.

One device chooses once for the batch. Replicas may choose apart, and a few rows that are compared may all choose alike:

```text
penalty = max(mean(kl), 0.5)       one device   max(0.6, 0.5)                              0.6
                                   replicas     max(0.4, 0.5), max(0.8, 0.5), averaged     0.65
```
"""

from typing import Any

from kparallel.ownstep.rows import StepRows
from kparallel.stage.dependence import Dependence

__all__: list[str] = []

_BENT = ("Maximum", "Minimum", "Relu", "Relu6", "Abs", "Sign", "ClipByValue")  # Piecewise linear in each entry.
_SELECTS = ("Select", "SelectV2")
_CONDITIONS = ("If", "StatelessIf")


def chooses(operation: Any, rows: StepRows) -> bool:
    """Tell whether what an operation computes depends on a choice by a number of this replica's rows.

    Args:
        operation: Of the step's graph.
        rows: Tells how its tensors depend on the rows.
    """
    if not any(output.dtype.is_floating for output in operation.outputs):
        return False  # Such as the conditions of TensorFlow's assertions.
    if operation.type in _BENT:
        # A mean over the rows enters the bent function at another place on each replica. Rows are bent one by one, on
        # one device too.
        return any(rows.of(each) is Dependence.MEAN for each in operation.inputs)
    scalar = operation.type in _CONDITIONS or (operation.type in _SELECTS and operation.inputs[0].shape.rank == 0)
    return scalar and rows.of(operation.inputs[0]) is not Dependence.NONE
