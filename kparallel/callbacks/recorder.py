"""Records a few steps of a training with TensorFlow's profiler."""

import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from kparallel.cluster import read_cluster
from kparallel.compat.profiler import start_profiler
from kparallel.machines.measured import measured_machine
from kparallel.machines.profiles import ServerProfiles, events_of
from kparallel.machines.program import Program, this_program
from kparallel.mesh import Mesh, device_kind
from kparallel.planning.plan import LayerGroup, Plan
from kparallel.planning.traffic import machines_of
from kparallel.trace.attribution import Owner, owner, plain_attribution
from kparallel.trace.events import MARK, Event, Operation, RecordedStep, calls
from kparallel.trace.lanes import LaneStep, assign_operations, lanes_of
from kparallel.trace.processes import Machine
from kparallel.trace.summary import Summary, summarize

__all__: list[str] = []


class Recording:
    """Recorded steps, laid out on the devices.

    Args:
        summary: The figures.
        steps: The steps.
        laid: For each step its lanes.
    """

    def __init__(self, summary: Summary, steps: Sequence[RecordedStep], laid: Sequence[Sequence[LaneStep]]) -> None:
        self.summary = summary
        self.steps = steps
        self.laid = laid


class Recorder:
    """Turns the profiler on before one step of `fit` and off after another; idle it does nothing.

    One step more is recorded ahead and left out, since the profiler's start disturbs it. Where an epoch ends in
    between, what is there counts, and else recording starts again in the next epoch.

    In one program over several machines every server records what its devices do, with a profiler of its own.

    In a cluster only the chief records. On other workers TensorFlow's profiler may end the process as it stops: there
    each collective asks the chief first (`CollectiveExecutor::CompleteParams`), an event that starts on one thread and
    ends on another, and `TraceMeRecorder::Consume` keeps pointers to such ends while it moves them (TensorFlow 2.21).

    Args:
        start: How many steps of `fit` run before; the first ones are traced and compiled.
        steps: How many steps are recorded.

    Raises:
        ValueError: `start` is below 1 or `steps` below 1.
    """

    def __init__(self, start: int, steps: int) -> None:
        for name, value in (("start", start), ("steps", steps)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Expected {name} to be a number of steps from 1 on, received {value!r}.")
        self._start = start
        self._steps = steps
        self._model: Any = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._servers: ServerProfiles | None = None
        self._mark: Any = None
        # `_calls` counts the calls of this `fit`, `_seen` those since the profiler was started.
        self._calls = 0
        self._seen = 0
        self._done = False

    @property
    def waits(self) -> bool:
        """Whether the recording is still to come."""
        return not self._done and self._directory is None

    @property
    def records(self) -> bool:
        """Whether the profiler runs."""
        return self._directory is not None

    def begin(self, model: Any) -> None:
        """Prepare for a `fit`.

        Raises:
            ValueError: The model runs eagerly, so that there is no graph whose operations could be told apart.
        """
        self.stop()
        if model.run_eagerly:
            raise ValueError("Expected a compiled step to record, received run_eagerly=True. Compile without it.")
        cluster = read_cluster()
        self._model, self._calls, self._done = model, 0, cluster is not None and cluster.index > 0

    def before_step(self) -> bool:
        """Start the profiler where the time has come, and mark the call.

        Returns:
            Whether the profiler was started.
        """
        # The mark is what `kparallel.trace.events` finds the call by. It has to begin before Keras fetches the batch.
        starts = self.waits and self._calls >= self._start and self._turn_on()
        if self.records:
            self._mark = tf.profiler.experimental.Trace(MARK, step_num=self._seen, _r=1)
            self._mark.__enter__()
        return starts

    def after_step(self) -> Recording | None:
        """End the call's mark, and return the recording where it is complete."""
        self._calls += 1
        if not self.records:
            return None
        self._end_mark()
        self._seen += 1
        # One call more than asked for: the first one is disturbed by the profiler's start, and left out.
        return self.finish() if self._seen > self._steps else None

    def finish(self) -> Recording | None:
        """Return what has been recorded, at an epoch's end; None where that is less than a step."""
        # Of one call alone nothing would be left.
        if not self.records or self._seen < 2:
            self.stop()
            return None
        assert self._directory is not None
        self._end_mark()
        tf.profiler.experimental.stop()
        with self._directory as name:
            self._directory = None
            own = [path.read_bytes() for path in sorted(Path(name).rglob("*.xplane.pb"))]
        servers, self._servers = self._servers, None
        others, ahead = ({}, {}) if servers is None else (servers.stop(), servers.clocks_ahead())
        self._done = True
        recording = self._recording(list(events_of(own, others, ahead)))
        if recording is None:
            warnings.warn("The profiler recorded no training step, so there is nothing to tell.", stacklevel=2)
        return recording

    def stop(self) -> None:
        """Turn the profiler off and forget what it recorded."""
        if self._directory is not None:
            self._end_mark()
            tf.profiler.experimental.stop(save=False)
            self._directory.cleanup()
            if self._servers is not None:
                self._servers.drop()
        self._directory = self._servers = None

    def _end_mark(self) -> None:
        """End the mark of a call, also of one that found the data at its end, of which Keras tells no callback."""
        if self._mark is not None:
            self._mark.__exit__(None, None, None)
        self._mark = None

    def _turn_on(self) -> bool:
        directory = tempfile.TemporaryDirectory(prefix="kparallel-trace-")
        try:
            start_profiler(directory.name)
        except tf.errors.AlreadyExistsError:
            directory.cleanup()
            self._done = True
            warnings.warn(
                "TensorFlow's profiler runs already, so no step is recorded. Let one callback profile at a time: "
                "give TensorBoard profile_batch=0, or record other steps.",
                stacklevel=2,
            )
            return False
        self._directory, self._seen = directory, 0
        program = _program_of(self._model)
        if program is not None:
            self._servers = ServerProfiles(program)
            self._servers.start()
        return True

    def _recording(self, events: Sequence[Event]) -> Recording | None:
        """Lay out all calls but the first; None where they hold no step."""
        plan = getattr(self._model, "plan", None)
        if isinstance(plan, Plan):

            def whose(operation: Operation) -> Owner:
                return owner(operation.name)
        else:
            plan, optimizer = _plain_plan(self._model), self._model.optimizer.name

            def whose(operation: Operation) -> Owner:
                return plain_attribution(operation.name, operation.kind, optimizer)

        # `[call][step]`, flat, without the first call.
        found = [step for call in calls(events, whose)[1:] for step in call]
        if not found:
            return None
        program = _program_of(self._model)
        machine = _machine(plan) if program is None else measured_machine(program, _machine(plan))
        lanes = lanes_of(plan, machine.worker)
        laid = [assign_operations(step, lanes, whose, alone=plan.replicas == 1) for step in found]
        return Recording(summarize(plan, found, laid, machine), found, laid)


def _program_of(model: Any) -> Program | None:
    """Return the program whose servers take part in the steps of a model, or None where this process does all."""
    plan = getattr(model, "plan", None)
    return this_program() if isinstance(plan, Plan) and len(machines_of(plan)) > 1 else None


def _machine(plan: Plan) -> Machine:
    cluster = read_cluster()
    # GPUs compute by themselves. CPU devices share the cores on which this process may run.
    cores = None if device_kind(plan.mesh.rows[0][0]) == "GPU" else len(os.sched_getaffinity(0))
    threads = tf.config.threading.get_intra_op_parallelism_threads() or cores or 1
    return Machine(cores, threads, cluster.index if cluster else 0)


def _plain_plan(model: keras.Model) -> Plan:
    """Describe a model that is not wrapped: one stage on each device of its strategy."""
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync > 1:
        devices = strategy.extended.worker_devices
    else:
        devices = ["GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"]
    workers = strategy.num_replicas_in_sync // len(devices)
    group = LayerGroup(tuple(layer.name for layer in model.layers), model.count_params(), weight_bytes=0)
    return Plan(model.name, Mesh(tuple((device.rpartition("/")[2],) for device in devices)), (group,), workers=workers)
