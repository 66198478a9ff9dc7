"""Keras's containers of losses and metrics."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

__all__: list[str] = []


def compiled_loss(model: keras.Model) -> Any:
    """Return Keras's container of the compiled losses, or None."""
    return model._compile_loss


def flat_losses(compile_loss: Any) -> list[Any]:
    """Return the losses inside Keras's built container."""
    return [entry.loss for entry in compile_loss._flat_losses] if compile_loss.built else []


def compiled_metrics(model: keras.Model) -> Any:
    """Return Keras's container of the compiled metrics, or None."""
    return model._compile_metrics


def loss_tracker(model: keras.Model) -> keras.metrics.Mean:
    """Return the metric that reports `loss`."""
    return model._loss_tracker


def loss_trackers(model: keras.Model) -> list[keras.metrics.Metric]:
    """Return the metrics that report each of several compiled losses."""
    losses = model._compile_loss
    return [] if losses is None else list(losses.metrics)


def metrics_inside(metric: keras.metrics.Metric) -> list[keras.metrics.Metric]:
    """Return the metrics that another one holds: as attributes, or as `compile` was given them."""
    return [*getattr(metric, "_metrics", []), *getattr(metric, "metrics", [])]


def route_losses(compile_loss: Any, y: Any, y_pred: Any, sample_weight: Any) -> list[tuple[Any, Any, Any]]:
    """Let Keras match targets, outputs and weights to losses.

    Returns:
        One (loss, loss weight, (y_true, y_pred, sample_weight)) per term that counts.
    """
    calls: list[Any] = []
    entries = compile_loss._flat_losses

    def recorder(y_true: Any, y_pred: Any, weight: Any) -> tf.Tensor:
        calls.append((y_true, y_pred, weight))
        return tf.zeros((), keras.config.floatx())

    # Keras itself does the matching, in all the structures that it accepts: its container is called with losses that
    # only note their arguments.
    compile_loss._flat_losses = [entry._replace(loss=recorder) for entry in entries]
    try:
        # The container also updates the metrics of several losses; in the scope nothing is written.
        with keras.StatelessScope():
            compile_loss(y, y_pred, sample_weight)
    finally:
        compile_loss._flat_losses = entries
    terms = [(entry.loss, entry.loss_weights, call) for entry, call in zip(entries, calls, strict=False)]
    # With one output and one target Keras counts the first loss only.
    return terms if keras.tree.is_nested(y) or keras.tree.is_nested(y_pred) else terms[:1]


def wrapped_function(owner: keras.metrics.Metric | keras.losses.Loss) -> Callable[..., Any] | None:
    """Return the function that a `MeanMetricWrapper` averages or a compiled loss calls, or None."""
    return getattr(owner, "_fn", getattr(owner, "fn", None))


def reduced_dims(owner: keras.metrics.Metric | keras.losses.Loss) -> tuple[int, ...]:
    """Return the dims given as the `axis` of what a metric or loss of Keras's calls; 0 is the rows."""
    axis = getattr(owner, "_fn_kwargs", {}).get("axis")
    return () if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)


def loss_weights(model: keras.Model) -> list[Any]:
    """Return the weight of each compiled loss, in Keras's order."""
    losses = model._compile_loss
    return [entry.loss_weights for entry in losses._flat_losses] if losses is not None and losses.built else []
