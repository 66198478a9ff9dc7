"""Which of Keras's hooks a model may have of its own."""

import keras

from kparallel.errors import ModelError

__all__: list[str] = []

_REPLACED = ("train_step", "test_step", "predict_step", "make_train_function", "make_test_function")


def check_overrides(model: keras.Model) -> None:
    """Make sure that a model, plain or wrapped, has no hook of its own that would not be called.

    Raises:
        ModelError: It has; the message names the hook and the way out.
    """
    for hook in _REPLACED:
        if hook in vars(model) or getattr(model.__class__, hook) is not getattr(keras.Model, hook):
            raise ModelError(
                f"{model.__class__.__name__} overrides {hook}, which kparallel replaces. Move the loss into "
                "compute_loss or add_loss and the metrics into compute_metrics, which are supported."
            )
