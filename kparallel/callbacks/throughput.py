"""Samples per second, in the logs, and why they are not more."""

import time
from collections.abc import Callable
from typing import Any

import keras

from kparallel.callbacks.meter import Meter
from kparallel.callbacks.recorder import Recorder, Recording
from kparallel.trace.diagnosis import diagnose
from kparallel.trace.summary import Summary, machine_lines

__all__: list[str] = []

# Recorded after so many steps, of which the first ones are traced and compiled; and how many.
_START, _STEPS = 3, 3


class Throughput(keras.callbacks.Callback):  # type: ignore[misc]
    """Log how many samples a second training takes, per replica, and against one replica.

    Adds to each epoch's logs, and so to the history and to TensorBoard, if its callback comes after this one:
    `samples_per_second`; `samples_per_second_per_replica`; and `scaling_efficiency`, the share of ideal speed-up,
    where a single replica's figure is given. Validation does not count, nor does the first step of `fit`, which traces.

    With `explain=True` it also records three steps with TensorFlow's profiler, which do not count either, and prints
    one line at the end of that epoch, in a cluster on the chief: what keeps training from being faster. Of the causes
    that take more of the devices' time than their threshold, the one that takes most is named:

    - input-bound: 20% or more of a step is waiting for the next batch;
    - communication-bound: 20% or more is summing gradients between replicas and waiting for the slowest replica;
    - unbalanced stages or pipeline bubble: 20% or more is waiting for another stage, of which one takes 1.25 times
      the mean stage's time, or none does;
    - too small: 40% or more is Python and starting operations;
    - shared cores: for 20% or more a virtual CPU device is ready but has no core, waits for such a stage included, or
      the devices have more threads than there are cores and nothing else is named;
    - scales well: none of these, and the scaling efficiency is 70% or more where it is known; where it is less, the
      largest of the shares above is named without regard to thresholds.

    In one program over several machines the line also tells what passes between them, and the memory of each process.

    `explanation` holds the line, empty until it is known and on workers that are not the chief, and `summary` the
    figures behind it; `Trace` writes them out.

    Args:
        batch_size: Rows of the global batch.
        single_replica: Samples a second of one replica, measured with this callback; default unknown.
        clock: Returns seconds; `time.perf_counter` by default.
        explain: Whether to record steps and to say what limits training; False by default.

    Raises:
        ValueError: An argument is not above 0; or in `fit`, `explain` is asked of a model that runs eagerly.

    Example:
        >>> import keras, numpy, kparallel
        >>> model = kparallel.wrap(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]), replicas=2)
        >>> model.compile("sgd", "mse")
        >>> throughput = Throughput(batch_size=8, explain=True)
        >>> x, y = numpy.ones((128, 4)), numpy.ones((128, 1))
        >>> history = model.fit(x, y, batch_size=8, verbose=0, callbacks=[throughput])  # doctest: +ELLIPSIS
        kparallel: ...
        >>> sorted(history.history)
        ['loss', 'samples_per_second', 'samples_per_second_per_replica']
    """

    def __init__(
        self,
        batch_size: int,
        single_replica: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
        explain: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("single_replica", single_replica)):
            if value is not None and not value > 0:
                raise ValueError(f"Expected {name} to be above 0, received {value!r}.")
        self._batch_size = batch_size
        self._single_replica = single_replica
        self._clock = clock
        self._traced = False
        self._meter = Meter()
        self._recorder = Recorder(_START, _STEPS) if explain else None
        self._told = False
        self.explanation = ""
        self.summary: Summary | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget what was measured before."""
        self._traced = self._told = False
        self.explanation, self.summary = "", None
        if self._recorder is not None:
            self._recorder.begin(self.model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock, if the step is traced already."""
        self._meter.begin(self._steps(), self._clock())

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Stop the clock while steps are recorded."""
        if self._recorder is None:
            return
        now = self._clock()  # Before the profiler starts, which takes a while.
        if self._recorder.before_step():
            self._meter.pause(now)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Note the time; start the clock after the first step of `fit`."""
        if self._recorder is not None:
            self._take(self._recorder.after_step())
        steps, now = self._steps(), self._clock()
        self._meter.reach(steps, now)
        if not self._traced:
            self._traced = True
            self._meter.begin(steps, now)
        if self._recorder is not None and not self._recorder.records:
            self._meter.resume()

    def on_test_begin(self, logs: Any = None) -> None:
        """An epoch's validation is not recorded."""
        if self._recorder is not None:
            self._take(self._recorder.finish())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Log the figures, and say what limits them; an epoch whose only step was traced has none."""
        self.on_test_begin()
        self._meter.resume()
        self._log(logs)
        if self.summary is not None and not self._told:
            self._tell(None if logs is None else logs.get("scaling_efficiency"))

    def _log(self, logs: Any) -> None:
        steps, seconds = self._meter.steps, self._meter.seconds
        if logs is None or steps <= 0 or seconds <= 0:
            return
        replicas = getattr(self.model.distribute_strategy, "num_replicas_in_sync", 1)
        rate = steps * self._batch_size / seconds
        logs["samples_per_second"] = rate
        logs["samples_per_second_per_replica"] = rate / replicas
        if self._single_replica is not None:
            logs["scaling_efficiency"] = rate / replicas / self._single_replica

    def _take(self, recording: Recording | None) -> None:
        if recording is not None:
            self.summary = recording.summary

    def _tell(self, efficiency: float | None) -> None:
        assert self.summary is not None
        self._told = True
        self.explanation = " ".join(
            [str(diagnose(self.summary, efficiency)), *map(_sentence, machine_lines(self.summary, self._batch_size))]
        )
        # The progress bar, if there is one, stands in the middle of its line.
        line_break = "\n" if self.params.get("verbose") == 1 else ""
        print(f"{line_break}kparallel: {self.explanation}")

    def _steps(self) -> int:
        return int(self.model.optimizer.iterations)


def _sentence(line: str) -> str:
    """Return a line of the report, which begins with its subject, as a sentence."""
    subject, _, rest = line.partition(" ")
    return f"{subject.capitalize()}: {rest.strip()}."
