"""Learning-rate warm-up for large batches."""

from typing import Any

import keras

from kparallel.compat.optimizers import own_optimizer

__all__: list[str] = []


class Warmup(keras.callbacks.Callback):  # type: ignore[misc]
    """Raise the learning rate from that of one replica to that of all, step by step, over the first epochs.

    A global batch that grows with the replicas wants a learning rate that grows with it, but not at once. Give the
    optimizer the rate for one replica. Step t of the T warm-up steps uses rate * (1 + (scale - 1) * t / T); from
    step T on it stays at rate * scale, or follows what another callback sets.

    Momentum correction: Keras's SGD keeps the rate inside its velocity, v = m * v - rate * g. Where the rate changes
    by a factor, the velocity is multiplied by it, so that old gradients count at the new rate. Optimizers without such
    a velocity (Adam and its kin) need none.

    Source: Goyal et al. 2017, Accurate, Large Minibatch SGD, https://arxiv.org/abs/1706.02677, sections 2.1 to 2.3.

    Args:
        scale: By how much the rate grows; default the number of replicas of the model's strategy.
        epochs: Over how many epochs, 5 by default; may be a fraction.
        steps: Over how many steps; instead of `epochs`, and needed where `fit` does not know an epoch's steps.
        momentum_correction: Whether the velocity follows the rate.

    Raises:
        ValueError: An argument is out of range, or the optimizer follows a `LearningRateSchedule`.

    Example:
        >>> Warmup(scale=8, steps=100).rate_factor(50)
        4.5
    """

    def __init__(
        self,
        scale: float | None = None,
        epochs: float = 5.0,
        steps: int | None = None,
        momentum_correction: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (("scale", scale), ("epochs", epochs), ("steps", steps)):
            if value is not None and not value > 0:
                raise ValueError(f"Expected {name} to be above 0, received {value!r}.")
        self._scale = scale
        self._epochs = epochs
        self._steps = steps
        self._momentum_correction = momentum_correction
        self._base: float | None = None
        self._step = 0

    def rate_factor(self, step: int) -> float:
        """Return by what the learning rate is multiplied at a step, the first being 0."""
        scale = self._scale or 1.0
        # From 1 at step 0 in a straight line to `scale` at step `steps`.
        share = min(1.0, step / self._steps) if self._steps else 1.0
        return 1.0 + (scale - 1.0) * share

    def on_train_begin(self, logs: Any = None) -> None:
        """Take the optimizer's rate as that of one replica."""
        optimizer = self._optimizer()
        if self._scale is None:
            self._scale = float(getattr(self.model.distribute_strategy, "num_replicas_in_sync", 1))
        if self._steps is None:
            if not self.params.get("steps"):
                raise ValueError("Expected Warmup(steps=...): the data does not say how many steps an epoch has.")
            self._steps = max(1, round(self._epochs * self.params["steps"]))
        # Once for this object: in a second `fit` the optimizer's rate is already a scaled one.
        if self._base is None:
            self._base = float(optimizer.learning_rate)
            # An interrupted fit goes on where the optimizer's own count stands.
            self._step = int(optimizer.iterations)
        self._set(self._base * self.rate_factor(self._step))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Set the rate of the next step."""
        done = int(self._optimizer().iterations)
        if self._steps is None or self._base is None or self._step >= self._steps:
            return
        self._step = min(done, self._steps)
        self._set(self._base * self.rate_factor(self._step))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Log the rate."""
        if logs is not None:
            logs["learning_rate"] = float(self._optimizer().learning_rate)

    def _optimizer(self) -> Any:
        return own_optimizer(self.model.optimizer)

    def _set(self, rate: float) -> None:
        optimizer = self._optimizer()
        before = float(optimizer.learning_rate)
        try:
            optimizer.learning_rate = rate
        except TypeError as error:  # By which Keras says so.
            raise ValueError(
                "Expected an optimizer with a number as learning rate, received one that follows a "
                "LearningRateSchedule. Warm up in the schedule itself, or drop it."
            ) from error
        if self._momentum_correction and before > 0 and rate != before:
            for velocity in _velocities(optimizer):
                # Keras     v = momentum * v - rate * gradient
                # The velocity contains the old rates, so it is brought to the new one (Goyal et al.,
                # https://arxiv.org/abs/1706.02677).
                velocity.assign(velocity * (rate / before))


def _velocities(optimizer: Any) -> list[Any]:
    """Return the slots that hold a sum of rate times gradient: those of SGD with momentum."""
    return list(optimizer.momentums) if type(optimizer) is keras.optimizers.SGD and optimizer.momentum else []
