"""Which of Keras's hooks a model may have of its own."""

import keras

from kparallel.errors import ModelError
from kparallel.planning.plan import Plan

__all__: list[str] = []

_REPLACED = ("make_train_function", "make_test_function", "make_predict_function")
STEPS = ("train_step", "test_step", "predict_step")


def has_own(model: keras.Model, hook: str) -> bool:
    """Tell whether a model, plain or wrapped, has a hook of its own, of its class or assigned to it."""
    return hook in vars(model) or getattr(model.__class__, hook) is not getattr(keras.Model, hook)


def check_overrides(model: keras.Model) -> None:
    """Make sure that a model, plain or wrapped, has no hook of its own that would not be called.

    Raises:
        ModelError: It has; the message names the hook and the way out.
    """
    for hook in _REPLACED:
        if has_own(model, hook):
            raise ModelError(
                f"{model.__class__.__name__} overrides {hook}, which kparallel replaces. Override train_step, "
                "test_step or predict_step instead, or move the loss into compute_loss or add_loss and the metrics "
                "into compute_metrics, which are supported."
            )


def check_steps(model: keras.Model, plan: Plan) -> None:
    """Make sure that a step of the user's own runs under a plan.

    Raises:
        ModelError: The plan cuts the model, or divides a share into microbatches; the message says why not, and the
            way out.
    """
    own = [hook for hook in STEPS if has_own(model, hook)]
    if own and (len(plan.groups) > 1 or plan.microbatches > 1):
        raise ModelError(
            f"Expected replicas alone for {model.__class__.__name__}, which overrides {own[0]}, received "
            f"{len(plan.groups)} stages and {plan.microbatches} microbatches. Such a step calls the model, its tapes "
            "and its optimizers as it likes, so it cannot be cut into the forward and backward passes of stages. Say "
            "replicas= alone; or, where the step only computes a loss of its own, pass it to compile or override "
            "compute_loss in place of the step: such a model can be cut."
        )
