"""Where a training step's time goes: a trace file, a picture and a report."""

import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from kparallel.callbacks.recorder import Recorder, Recording
from kparallel.cluster import read_cluster
from kparallel.errors import PlanError
from kparallel.forecast.estimate import Estimate
from kparallel.forecast.forecast import Forecast
from kparallel.planning.plan import Plan
from kparallel.trace.chrome import chrome
from kparallel.trace.diagnosis import diagnose
from kparallel.trace.plot import draw
from kparallel.trace.prediction import estimate_of
from kparallel.trace.summary import Summary

__all__: list[str] = []


class Trace(keras.callbacks.Callback):  # type: ignore[misc]
    """Record a few training steps and tell where their time went, action by action on each device.

    Writes into a directory: `trace.json`, which chrome://tracing and https://ui.perfetto.dev open, with a process for
    each device and a slice for each action such as `0F3`, the reduction and the update; `trace.png`, one lane for each
    device, planned against measured; and `trace.txt`, the report: step time, bubble measured and planned, the share
    of communication and of waiting for data, and the slowest stage with its layers. In a cluster only the chief
    records itself, as TensorFlow's profiler is not safe on others; its files carry its index: `trace-worker-0.json`.
    In one program over several machines all of them are recorded, and the report also tells what passes between them
    and the memory of each process.

    Recording slows these steps a little, and nothing else: the other steps run as without the callback. A model that
    is not wrapped is one stage; compiled with XLA as a whole, its step is one operation. Steps of a
    `Trace` and of another profiler, such as that of TensorBoard's callback, must not overlap. The path for GPUs
    follows TensorFlow's documentation and has not run on GPUs yet.

    Attributes: `report`, the text, empty until it is written, and on workers that record nothing; `summary`, its
    figures; `files`, what was written.

    Args:
        directory: Where to write; made if it is missing.
        steps: How many steps to record, 3 by default.
        start: How many steps of `fit` run before; 3 by default, for the first ones are traced and compiled.
        picture: Ending of the picture's file, such as `"png"` (default) or `"svg"`; None for no picture.
        verbose: Whether to print the report; True by default.
        predicted: What `kparallel.plan(..., cluster=)` predicts, or one of its `best`. Then the report has a line more:
            the step's time predicted and measured, and the term that is off by most. Default None.

    Raises:
        ValueError: `steps` or `start` is below 1; or in `fit`, the model runs eagerly.
        PlanError: In `fit`, the prediction is for another plan than the model's, or the model is not wrapped.

    Example:
        >>> import keras, numpy, tempfile, kparallel
        >>> model = kparallel.wrap(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]), replicas=2)
        >>> model.compile("sgd", "mse")
        >>> trace = Trace(tempfile.mkdtemp(), verbose=False)
        >>> _ = model.fit(numpy.ones((64, 4)), numpy.ones((64, 1)), batch_size=8, verbose=0, callbacks=[trace])
        >>> [file.name for file in trace.files]
        ['trace.json', 'trace.txt', 'trace.png']
        >>> trace.report.splitlines()[0]
        'sequential: 2 replicas x 1 stage; 3 steps recorded'
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        steps: int = 3,
        start: int = 3,
        picture: str | None = "png",
        verbose: bool = True,
        predicted: Forecast | Estimate | None = None,
    ) -> None:
        super().__init__()
        self._directory = Path(directory)
        self._recorder = Recorder(start, steps)
        self._picture = picture
        self._verbose = verbose
        self._predicted = predicted
        self._estimate: Estimate | None = None
        self.report = ""
        self.summary: Summary | None = None
        self.files: tuple[Path, ...] = ()

    def on_train_begin(self, logs: Any = None) -> None:
        """Prepare."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self.report, self.summary, self.files = "", None, ()
        self._estimate = None if self._predicted is None else estimate_of(self._predicted, _plan_of(self.model))
        self._recorder.begin(self.model)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Start to record, if it is time."""
        self._recorder.before_step()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Write, if the recording is complete."""
        self._write(self._recorder.after_step())

    def on_test_begin(self, logs: Any = None) -> None:
        """An epoch's validation is not recorded."""
        self._write(self._recorder.finish())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """What is recorded of an epoch counts."""
        self._write(self._recorder.finish())

    def on_train_end(self, logs: Any = None) -> None:
        """Say so if nothing was recorded."""
        self._recorder.stop()
        if self._recorder.waits:
            warnings.warn(
                "fit ended before a step was recorded. Record earlier steps (Trace(start=1)), or train longer.",
                stacklevel=2,
            )

    def _write(self, recording: Recording | None) -> None:
        if recording is None:
            return
        cluster = read_cluster()
        # Workers may share the directory.
        name = "trace" if cluster is None else f"trace-worker-{cluster.index}"
        self.summary = replace(recording.summary, predicted=self._estimate)
        self.report = f"{self.summary}\nin short       {diagnose(self.summary)}"
        files = {f"{name}.json": json.dumps(chrome(recording.steps, recording.laid)), f"{name}.txt": self.report + "\n"}
        for file, text in files.items():
            (self._directory / file).write_text(text)
        written = [self._directory / file for file in files]
        if self._picture is not None:
            picture = self._directory / f"{name}.{self._picture}"
            try:
                # The files come first: they are written also where Matplotlib is missing.
                draw(recording.summary, recording.steps, recording.laid, picture)
                written.append(picture)
            except ImportError as error:
                warnings.warn(
                    f"{error} {written[0]} is written; Trace(picture=None) asks for no picture.", stacklevel=2
                )
        self.files = tuple(written)
        if self._verbose:
            print(self.report)


def _plan_of(model: Any) -> Plan:
    plan = getattr(model, "plan", None)
    if not isinstance(plan, Plan):
        raise PlanError(
            f"Expected a wrapped model to hold a prediction against, received {model.name!r}, which has no plan. Call "
            "kparallel.wrap(model) first, or leave predicted out."
        )
    return plan
