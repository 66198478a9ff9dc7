"""The loss terms of one replica, by their origin (compiled losses, or a stage's `add_loss`) and by microbatch."""

from collections.abc import Callable
from typing import TypeVar

import tensorflow as tf

from kparallel.loss.term import LossWeight, Term

__all__: list[str] = []

WeightedTerm = tuple[LossWeight, Term]
_T = TypeVar("_T")


class TermTable:
    """The loss terms of one replica's share of a batch.

    ```text
    microbatch                 0         1         2
    compiled losses          [a, b]    [a, b]    [a, b]      in Keras's order
    add_loss in stage 0      [c]       [c]       [c]
    add_loss in stage 1      []        []        []
    ```

    Each microbatch has the same terms, so the sum of a term over the microbatches is the sum along a line of the table.
    A list of all terms has the order of the lines: a, b, c. A loss that needs all rows at once fills the cell of
    microbatch 0 only.

    Args:
        stages: The number of stages.
    """

    def __init__(self, stages: int) -> None:
        self._losses: dict[int, list[WeightedTerm]] = {}  # `[m][term]`
        # `[s][m][term]`
        self._added: list[dict[int, list[Term]]] = [{} for _ in range(stages)]

    def set_losses(self, m: int, terms: list[WeightedTerm]) -> None:
        """Store a microbatch's terms of the compiled losses, or the one term of an overridden `compute_loss`."""
        self._losses[m] = terms

    def set_added(self, s: int, m: int, terms: list[Term]) -> None:
        """Store a microbatch's terms of a stage's `add_loss` calls and activity regularizers."""
        self._added[s][m] = terms

    def losses(self, m: int) -> list[Term]:
        """Return a microbatch's terms of the compiled losses, without their weights."""
        return [term for _, term in self._losses[m]]

    def added(self) -> list[Term]:
        """Return the `add_loss` terms of all stages, from one microbatch."""
        return [term for cells in self._added for term in _any(cells)]

    def of_one_microbatch(self) -> list[WeightedTerm]:
        """Return each term with its weight, from one microbatch."""
        # `add_loss` has no loss weight.
        return [*_any(self._losses), *((None, term) for term in self.added())]

    def added_by(self, s: int) -> slice:
        """Return the slice of a stage's `add_loss` terms in the list of all terms."""
        start = len(_any(self._losses)) + sum(len(_any(cells)) for cells in self._added[:s])
        return slice(start, start + len(_any(self._added[s])))

    def summed(self, of_term: Callable[[Term], list[tf.Tensor]]) -> list[tf.Tensor]:
        """Return tensors of all terms, summed over the microbatches.

        Args:
            of_term: Returns a term's tensors, such as its statistics.
        """
        losses = {m: [term for _, term in terms] for m, terms in self._losses.items()}
        totals: list[tf.Tensor] = []
        for cells in [losses, *self._added]:
            by_microbatch = [[tensor for term in cells[m] for tensor in of_term(term)] for m in sorted(cells)]
            for tensors in zip(*by_microbatch, strict=True):
                totals.append(tf.add_n(list(tensors)) if len(tensors) > 1 else tensors[0])
        return totals


def _any(cells: dict[int, list[_T]]) -> list[_T]:
    return cells[min(cells)] if cells else []
