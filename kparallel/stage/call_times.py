"""The measured time of a model's calls as a line: seconds that do not grow with the rows, and seconds for each row.

```text
seconds │        ∙ all rows of the sample
        │   ∙ a quarter of them
per call│∙ what a microbatch of no rows would take
        └───────────── rows
```

A call of many small operations, as a loop over time steps, has most of its time at the left end: a microbatch of it
takes nearly as long as the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kparallel.stage.costs import measured
from kparallel.stage.graph import Graph
from kparallel.stage.whole_pass import scaled, whole_pass

__all__: list[str] = []


@dataclass(frozen=True)
class CallTime:
    """The time of one call, forward and backward.

    Args:
        per_call: Seconds that do not grow with the rows.
        per_row: Seconds for each row.
    """

    per_call: float
    per_row: float


def call_times(graph: Graph, inputs: list[Any], devices: Sequence[str] = ("",)) -> list[CallTime]:
    """Measure each call with all rows of a sample, and with a quarter of them.

    The times of the calls add up to that of the whole pass with as many rows.

    Args:
        graph: An opened graph.
        inputs: The model's flat inputs for a few rows.
        devices: Where each call runs at the same time, as in `measured`.
    """
    rows = int(inputs[0].shape[0])
    few = max(1, rows // 4)
    all_rows = _measured(graph, inputs, devices)
    if few == rows:  # A single row tells nothing about a second one.
        return [CallTime(0.0, seconds / rows) for seconds in all_rows]
    return lines(few, _measured(graph, [value[:few] for value in inputs], devices), rows, all_rows)


def _measured(graph: Graph, inputs: list[Any], devices: Sequence[str]) -> list[float]:
    times = measured(graph, inputs, devices=devices)
    return scaled(times, whole_pass(graph, inputs, devices=devices))


def lines(few: int, of_few: Sequence[float], rows: int, of_rows: Sequence[float]) -> list[CallTime]:
    """Return the lines through two points each, which neither start below zero nor fall.

    Args:
        few: The smaller number of rows.
        of_few: The seconds of each call with so many.
        rows: The larger number of rows.
        of_rows: The seconds of each call with so many.

    Example:
        >>> lines(8, [3.0, 1.0], 32, [6.0, 8.0])
        [CallTime(per_call=2.0, per_row=0.125), CallTime(per_call=0.0, per_row=0.25)]
    """
    made = []
    for less, more in zip(of_few, of_rows, strict=True):
        # Noise may make fewer rows slower. Then no time depends on the rows, as far as can be seen.
        per_row = min(max(0.0, (more - less) / (rows - few)), more / rows)
        made.append(CallTime(max(0.0, more - per_row * rows), per_row))
    return made
