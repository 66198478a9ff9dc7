"""What Keras's layers leave on the tensors that they return."""

from typing import Any

__all__: list[str] = []


def keras_mask(tensor: Any) -> Any:
    """Return the mask that a layer left on a tensor, or None."""
    return getattr(tensor, "_keras_mask", None)


def keras_logits(tensor: Any) -> Any:
    """Return the logits that a softmax or sigmoid left on its result, or None; Keras's losses rather read them."""
    return getattr(tensor, "_keras_logits", None)


def set_logits(tensor: Any, logits: Any) -> None:
    """Tell Keras's losses from which logits a tensor was made."""
    tensor._keras_logits = logits


def set_mask(tensor: Any, mask: Any) -> None:
    """Attach a Keras mask to a tensor."""
    tensor._keras_mask = mask
