"""Decides which losses need the whole batch: by class for Keras's losses, from the graph for the user's."""

from collections.abc import Callable
from typing import Any

import keras

from kparallel.compat.losses import compiled_loss, flat_losses
from kparallel.loss.broadcast import check_targets
from kparallel.loss.term import has_inner_dims, is_batch_coupled, is_rowwise, loss_values, reduces_rows
from kparallel.stage.dependence import Dependence
from kparallel.stage.traced_dependence import dependence

__all__: list[str] = []

# The meaning of a scalar loss, by how it depends on the rows. A constant counts once, as a mean of itself.
_SCALARS = {Dependence.NONE: "mean", Dependence.MEAN: "mean", Dependence.SUM: "sum"}


class WholeBatchNeeded(Exception):
    """Raised when a loss turns out to need the whole batch while it is computed on microbatches."""


class Coupling:
    """Decides how a model's losses are computed from the parts of a batch.

    Attributes:
        whole: Whether some loss needs all rows of a share at once. It may become true while the first step is traced.

    Args:
        model: The compiled model.
        reduction: The user's `loss_reduction`: the meaning of a loss that returns a scalar. With `"mean"`, the default,
            the graph of the loss decides.
        parts: The number of parts of a batch: replicas times microbatches.
    """

    def __init__(self, model: keras.Model, reduction: str, parts: int) -> None:
        losses = compiled_loss(model)
        compares_rows = losses is not None and any(is_batch_coupled(loss) for loss in flat_losses(losses))
        self.whole = reduction == "global" or compares_rows
        self._reduction = reduction
        self._undivided = parts == 1
        # By the id of a loss, None for an overridden `compute_loss`: "mean", "sum" or "global".
        self._found: dict[int | None, str] = {}

    def of(self, loss: Any, call: tuple[Any, Any, Any], whole: bool) -> str:
        """Return the meaning of a loss: `"mean"` or `"sum"` over the rows, or `"global"` if it needs the whole batch.

        Args:
            loss: One of the model's losses.
            call: Targets, outputs and sample weights.
            whole: Whether these are all rows of a replica's share.

        Raises:
            WholeBatchNeeded: The loss needs the whole batch, and these are the rows of a microbatch. The attribute
                `whole` is set before.
            DataError: The loss takes targets and outputs of these shapes for some numbers of rows only.
        """
        if id(loss) not in self._found:
            meaning = self._of_loss(loss, call)
            if meaning != "global" and not self._undivided:
                check_targets(loss, *call[:2])
            self._found[id(loss)] = meaning
        return self._checked(self._found[id(loss)], whole)

    def of_own(self, compute: Callable[..., Any], arguments: list[Any], whole: bool) -> str:
        """Return the meaning of the loss of an overridden `compute_loss`, as `of` does.

        Args:
            compute: Returns the loss of `arguments`.
            arguments: x, y, outputs and sample weights.
            whole: As in `of`.

        Raises:
            WholeBatchNeeded: As in `of`.
        """
        if None not in self._found:
            read = self._reduction == "mean" and not self._undivided
            on_rows = dependence(compute, arguments) if read else Dependence.NONE
            self._found[None] = _SCALARS.get(on_rows, "global") if read else self._reduction
        return self._checked(self._found[None], whole)

    def _checked(self, meaning: str, whole: bool) -> str:
        if meaning == "global" and not whole:
            self.whole = True
            raise WholeBatchNeeded
        return meaning

    def _of_loss(self, loss: Any, call: tuple[Any, Any, Any]) -> str:
        if is_batch_coupled(loss) or reduces_rows(loss, call[1]):
            return "global"
        if self._reduction == "global":
            # A loss of Keras's that gives a value for each row needs no gathering: the parts' values are the batch's.
            couples = not is_rowwise(loss) or not loss.call(call[0], call[1]).shape.rank
            return "global" if couples else "mean"
        known = is_rowwise(loss) and has_inner_dims(call[1])
        if self._reduction == "sum" or known or self._undivided:
            return self._reduction
        return self._read(loss, call)

    def _read(self, loss: Any, call: tuple[Any, Any, Any]) -> str:
        """Return the meaning of a loss from the graph of its values."""
        # Noted while `dependence` traces the loss, which also happens with an unknown number of rows.
        ranks: list[int | None] = []

        def compute(y_true: Any, y_pred: Any) -> Any:
            values = loss_values(loss, y_true, y_pred)
            ranks.append(values.shape.rank)
            return values

        on_rows = dependence(compute, call[:2])
        if ranks[-1] == 0:
            return _SCALARS.get(on_rows, "global")
        # A value for each row: Keras reduces it, and `loss_term` splits the reduction.
        return "mean" if on_rows in (Dependence.ROWS, Dependence.NONE) else "global"
