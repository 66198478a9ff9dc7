"""A loss that needs more than the model's outputs: Keras's own step, run whole on each replica."""

from collections.abc import Callable
from typing import Any

from kparallel.loss.overridden import NotOfOutputsError, overrides_compute_loss
from kparallel.loss.read_weights import may_read_weights
from kparallel.planning.plan import Plan

__all__: list[str] = []

Function = Callable[[Any], Any]


def may_need_the_model(model: Any, plan: Plan) -> bool:
    """Return whether a loss may call layers or read weights, under a plan whose replicas can let it.

    A stage has neither the layers nor the weights of the others, and a microbatch's backward pass follows on a loss of
    outputs alone.

    Args:
        model: The wrapped model.
        plan: Its plan.
    """
    can = len(plan.groups) == 1 and plan.microbatches == 1 and not plan.placed
    return can and (overrides_compute_loss(model) or may_read_weights(model))


class LossOfModel:
    """A function of one batch, by forward and backward passes around the loss, or else by a whole step.

    Tracing tells whether the passes are possible: they hand the loss the outputs alone.

    Args:
        passes: The function whose passes are kparallel's. Raises before it changes anything.
        whole: The function whose step is Keras's own.
    """

    def __init__(self, passes: Function, whole: Function) -> None:
        self._passes = passes
        self._whole = whole
        self._needs_model = False

    def __call__(self, batch: Any) -> Any:
        """Run the step on a batch and return its logs."""
        if not self._needs_model:
            try:
                return self._passes(batch)
            except NotOfOutputsError:
                # From here on the whole step, for every batch: what a trace has refused it refuses each time.
                self._needs_model = True
        return self._whole(batch)
