"""What passes between the machines of one program in a step, by the plan.

```text
worker 0              worker 1
stage 0  ──────────►  stage 1        activations of a batch, and as many bytes of their gradients back
   └───────────────►  stage 2        what a stage reads of one that is not its neighbor comes straight from there
```
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kparallel.mesh import device_worker

if TYPE_CHECKING:
    from kparallel.planning.plan import Plan

__all__: list[str] = []


@dataclass(frozen=True)
class Traffic:
    """What one machine sends to another in the forward passes of a step.

    Args:
        source: The index of the worker that sends.
        target: The index of the worker that receives; the gradients of what it receives go back.
        bytes_per_row: The bytes of activations for each row of a batch; an estimate.
    """

    source: int
    target: int
    bytes_per_row: int


def machines_of(plan: "Plan") -> list[int]:
    """Return the workers that have devices of a plan, in ascending order; `[0]` where names tell no worker."""
    return sorted({device_worker(name) or 0 for row in plan.mesh.rows for name in row})


def traffic_between(plan: "Plan") -> list[Traffic]:
    """Return what passes between machines in a step, for each pair of which one sends to the other.

    A column is on one machine, so the first row tells the machine of each stage.

    Args:
        plan: The plan.

    Example:
        >>> from kparallel.mesh import Mesh
        >>> from kparallel.planning.plan import LayerGroup, Plan
        >>> groups = LayerGroup(("a",), 4, 16, (0,)), LayerGroup(("b",), 4, 16, (1,), arriving_from=(8,))
        >>> traffic_between(Plan("net", Mesh((("worker0/CPU:0", "worker1/CPU:0"),)), groups))
        [Traffic(source=0, target=1, bytes_per_row=8)]
    """
    workers = [device_worker(name) or 0 for name in plan.mesh.rows[0]]
    sent: dict[tuple[int, int], int] = defaultdict(int)
    for stage, group in enumerate(plan.groups):
        for source, size in enumerate(group.arriving_from):
            if size and workers[source] != workers[stage]:
                sent[workers[source], workers[stage]] += size
    return [Traffic(source, target, size) for (source, target), size in sorted(sent.items())]
