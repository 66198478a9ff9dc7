"""Finds where a step chooses by a number that each replica computes from its own rows.

One device chooses once for the batch. Replicas may choose apart, and a few rows that are compared may all choose alike:

```text
penalty = max(mean(kl), 0.5)       one device   max(0.6, 0.5)                              0.6
                                   replicas     max(0.4, 0.5), max(0.8, 0.5), averaged     0.65
```
"""

from typing import Any

import tensorflow as tf

from kparallel.ownstep.rows import StepRows
from kparallel.stage.dependence import Dependence

__all__: list[str] = []

# Linear in pieces: in each entry, or in the entries that they pick.
_BENT = {"Maximum", "Minimum", "Relu", "Relu6", "LeakyRelu", "Abs", "Sign", "ClipByValue", "Round", "Rint", "Floor"}
_BENT |= {"Ceil", "Max", "Min", "TopKV2", "ArgMax", "ArgMin"}
_SELECTS = ("Select", "SelectV2")
_CONDITIONS = ("If", "StatelessIf")


def chooses(operation: Any, rows: StepRows, sums: bool = False) -> bool:
    """Tell whether what an operation computes depends on a choice by a number of this replica's rows.

    Args:
        operation: Of the step's graph.
        rows: Tells how its tensors depend on the rows.
        sums: Whether losses are sums over rows, so that one of them counts as a mean does. Default False: then a sum is
            taken for a count, of which a largest of it and 1 is no choice.
    """
    kind, inputs = operation.type, operation.inputs
    if kind in _BENT:
        kinds = (Dependence.MEAN, Dependence.SUM) if sums else (Dependence.MEAN,)
        return bool(inputs[0].dtype.is_floating) and any(rows.of(each) in kinds for each in inputs)
    if not any(output.dtype.is_floating for output in operation.outputs):
        return False  # Such as the conditions of TensorFlow's assertions.
    scalar = kind in _CONDITIONS or (kind in _SELECTS and inputs[0].shape.rank == 0)
    scalar = scalar or (kind == "Cast" and inputs[0].dtype == tf.bool and inputs[0].shape.rank == 0)
    return scalar and rows.of(inputs[0]) is not Dependence.NONE
