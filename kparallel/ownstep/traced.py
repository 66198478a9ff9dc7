"""What follows one replica through the graph of its step, to tell what of it depends on the rows."""

from dataclasses import dataclass

import tensorflow as tf

from kparallel.ownstep.rows import StepRows
from kparallel.ownstep.written import Written
from kparallel.stage.dependence import Dependence

__all__: list[str] = []


@dataclass(frozen=True)
class Traced:
    """What follows a replica through the graph of its step.

    Args:
        rows: Tells how tensors depend on the rows.
        written: Follows what is written.
        size: How many rows there are, where the graph knows their number, so that it does not tell what depends on it.
        sums: Whether losses are sums over the rows.
    """

    rows: StepRows
    written: Written
    size: int | None
    sums: bool

    def dependence(self, tensor: tf.Tensor) -> Dependence:
        """Return how a tensor depends on the rows."""
        self.written.follow()
        return self.rows.of(tensor)
