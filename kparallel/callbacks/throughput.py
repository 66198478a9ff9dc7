"""Samples per second, in the logs."""

import time
from collections.abc import Callable
from typing import Any

import keras

__all__: list[str] = []


class Throughput(keras.callbacks.Callback):  # type: ignore[misc]
    """Log how many samples a second training takes, per replica, and against one replica.

    Adds to each epoch's logs, and so to the history and to TensorBoard, if its callback stands behind this one:
    `samples_per_second`; `samples_per_second_per_replica`; and `scaling_efficiency`, the share of ideal speed-up,
    where a single replica's figure is given. Validation does not count, nor does the first step of `fit`, which traces.

    Args:
        batch_size: Rows of the global batch.
        single_replica: Samples a second of one replica, measured with this callback; default unknown.
        clock: Returns seconds; `time.perf_counter` by default.

    Raises:
        ValueError: An argument is not above 0.

    Example:
        >>> throughput = Throughput(batch_size=256, single_replica=1000.0)
    """

    def __init__(
        self,
        batch_size: int,
        single_replica: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("single_replica", single_replica)):
            if value is not None and not value > 0:
                raise ValueError(f"Expected {name} to be above 0, received {value!r}.")
        self._batch_size = batch_size
        self._single_replica = single_replica
        self._clock = clock
        self._traced = False
        self._first = self._last = 0
        self._start = self._end = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget what was measured before."""
        self._traced = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock, if the step is traced already."""
        self._first = self._last = self._steps()
        self._start = self._end = self._clock()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Note the time; start the clock behind the first step of `fit`."""
        self._last, self._end = self._steps(), self._clock()
        if not self._traced:
            self._traced = True
            self._first, self._start = self._last, self._end

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Log the figures; an epoch whose only step was traced has none."""
        seconds, steps = self._end - self._start, self._last - self._first
        if logs is None or steps <= 0 or seconds <= 0:
            return
        replicas = getattr(self.model.distribute_strategy, "num_replicas_in_sync", 1)
        rate = steps * self._batch_size / seconds
        logs["samples_per_second"] = rate
        logs["samples_per_second_per_replica"] = rate / replicas
        if self._single_replica is not None:
            logs["scaling_efficiency"] = rate / replicas / self._single_replica

    def _steps(self) -> int:
        return int(self.model.optimizer.iterations)
