"""Which losses must see the whole batch: told by the class of Keras's own, read off the graph of the user's."""

from collections.abc import Callable
from typing import Any

import keras

from kparallel.compat.losses import compiled_loss, flat_losses
from kparallel.loss.term import is_batch_coupled, is_rowwise, loss_values
from kparallel.stage.dependence import Dependence, dependence

__all__: list[str] = []

_SCALARS = {Dependence.NONE: "mean", Dependence.MEAN: "mean", Dependence.SUM: "sum"}


class WholeBatchNeeded(Exception):
    """A loss of microbatches turned out to be no function of what each of them gives."""


class Coupling:
    """How the losses of a model are had from the parts of a batch.

    Args:
        model: The compiled model.
        reduction: What the user says that a loss means that returns a scalar. `"mean"`, the default, is no promise:
            what the graph of a loss shows goes before it.
        parts: Into how many shares and microbatches a batch is divided.
    """

    def __init__(self, model: keras.Model, reduction: str, parts: int) -> None:
        losses = compiled_loss(model)
        own = losses is not None and any(is_batch_coupled(loss) for loss in flat_losses(losses))
        self.whole = reduction == "global" or own
        self._reduction = reduction
        self._undivided = parts == 1
        self._found: dict[int | None, str] = {}

    def of(self, loss: Any, call: tuple[Any, Any, Any], whole: bool) -> str:
        """Return `"mean"` or `"sum"`, what a scalar means, or `"global"` for a loss of the whole batch.

        Args:
            loss: One of the model's losses.
            call: Targets, outputs and sample weights.
            whole: Whether they are of all rows of a replica's share.

        Raises:
            WholeBatchNeeded: The loss is of the whole batch, but these are of a microbatch; `whole` is set.
        """
        if id(loss) not in self._found:
            self._found[id(loss)] = self._of_loss(loss, call)
        return self._checked(self._found[id(loss)], whole)

    def of_own(self, compute: Callable[..., Any], arguments: list[Any], whole: bool) -> str:
        """Return the same as `of` for a model's own `compute_loss`.

        Args:
            compute: Returns the loss of `arguments`.
            arguments: x, y, outputs and sample weights.
            whole: As `of` takes it.

        Raises:
            WholeBatchNeeded: As `of` raises it.
        """
        if None not in self._found:
            read = self._reduction == "mean" and not self._undivided
            way = dependence(compute, arguments) if read else Dependence.NONE
            self._found[None] = _SCALARS.get(way, "global") if read else self._reduction
        return self._checked(self._found[None], whole)

    def _checked(self, found: str, whole: bool) -> str:
        if found == "global" and not whole:
            self.whole = True
            raise WholeBatchNeeded
        return found

    def _of_loss(self, loss: Any, call: tuple[Any, Any, Any]) -> str:
        if is_batch_coupled(loss):
            return "global"
        if self._reduction == "global":
            couples = not is_rowwise(loss) or not loss.call(call[0], call[1]).shape.rank
            return "global" if couples else "mean"
        if self._reduction == "sum" or is_rowwise(loss) or self._undivided:
            return self._reduction
        return self._read(loss, call)

    def _read(self, loss: Any, call: tuple[Any, Any, Any]) -> str:
        """Read off the graph of a user's own loss what its parts make of the whole."""
        ranks: list[int | None] = []

        def compute(y_true: Any, y_pred: Any) -> Any:
            values = loss_values(loss, y_true, y_pred)
            ranks.append(values.shape.rank)
            return values

        way = dependence(compute, call[:2])
        if ranks[-1] == 0:
            return _SCALARS.get(way, "global")
        return "mean" if way in (Dependence.ROWS, Dependence.NONE) else "global"
