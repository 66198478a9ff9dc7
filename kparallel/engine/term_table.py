"""The loss terms of one replica, by what computes them and by microbatch."""

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

    Each microbatch has the same terms, so a term's sum over the microbatches is the sum of one place of each cell.
    Wherever terms are listed they come in the order of the rows: a, b, c. A loss that needs all rows at once fills the
    cell of microbatch 0 alone.

    Args:
        stages: How many stages there are.
    """

    def __init__(self, stages: int) -> None:
        self._losses: dict[int, list[WeightedTerm]] = {}
        self._added: list[dict[int, list[Term]]] = [{} for _ in range(stages)]

    def set_losses(self, m: int, terms: list[WeightedTerm]) -> None:
        """Enter what the compiled losses, or the model's own `compute_loss`, give for a microbatch."""
        self._losses[m] = terms

    def set_added(self, s: int, m: int, terms: list[Term]) -> None:
        """Enter what `add_loss` and activity regularizers of a stage give for a microbatch."""
        self._added[s][m] = terms

    def losses(self, m: int) -> list[Term]:
        """Return what the compiled losses gave for a microbatch, without their weights."""
        return [term for _, term in self._losses[m]]

    def added(self) -> list[Term]:
        """Return what the stages added to the losses, from one microbatch."""
        return [term for cells in self._added for term in _any(cells)]

    def of_one_microbatch(self) -> list[WeightedTerm]:
        """Return each term with its weight, from one microbatch."""
        return [*_any(self._losses), *((None, term) for term in self.added())]

    def added_by(self, s: int) -> slice:
        """Return the places of a stage's own terms among all terms."""
        start = len(_any(self._losses)) + sum(len(_any(cells)) for cells in self._added[:s])
        return slice(start, start + len(_any(self._added[s])))

    def summed(self, of_term: Callable[[Term], list[tf.Tensor]]) -> list[tf.Tensor]:
        """Return tensors of each term, summed over the microbatches.

        Args:
            of_term: Picks a term's tensors, such as its statistics.
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
