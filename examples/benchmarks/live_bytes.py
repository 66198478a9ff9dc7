"""How many bytes of a training step live on a device: variables at rest, and what operations hand on to later ones.

A tensor lives on a device from the action that makes it, or that it is brought there for, to the last action that reads
it there. Time is counted in actions of a lane; a stage's gradients are summed after its last backward action, and all
updates come at the end. What an action makes and reads itself is not counted, nor are buffers of TensorFlow's own.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from examples.benchmarks.lifetimes import Origin, tensor_bytes
from kparallel.compat.functions import captured
from kparallel.engine import forward_backward
from kparallel.engine.executor import Executor
from kparallel.engine.replica_result import ReplicaResult
from kparallel.schedule.action import Action

__all__: list[str] = []

_ACTION = re.compile(r"(?:^|/)(\d+[FB]\d+)(?:_\d+)?/")
_REDUCTION = re.compile(r"(?:^|/)reduce(\d+)(?:_\d+)?/")
_UPDATE = re.compile(r"(?:^|/)(?:sharded_)?update(?:_\d+)?/")


@dataclass(frozen=True)
class LiveBytes:
    """Bytes on each device.

    Args:
        rest: Of weights and slots between steps, by device.
        in_step: At the peak of a step, with those at rest, by device.
        activations: Of what a device's forward actions leave for backward actions, at the peak, by device.
        brought: Of weights that are brought from other devices, at the peak, by device.
    """

    rest: dict[str, int]
    in_step: dict[str, int]
    activations: dict[str, int]
    brought: dict[str, int]


@dataclass
class _Trace:
    order: list[Action] = field(default_factory=list)
    graph: Any = None


def live_bytes(model: Any, first_step: Callable[[], Any]) -> LiveBytes:
    """Return the bytes that live in the training step which a function makes a wrapped model trace."""
    trace = _Trace()
    with _recorded(trace):
        first_step()
    rest: dict[str, int] = {}
    for variable in [*model.variables, *model.optimizer.variables]:
        for copy in variable.value.values:
            device = _short(copy.device)
            rest[device] = rest.get(device, 0) + tensor_bytes(copy)
    intervals = _intervals(trace)
    peaks, activations, brought = {}, {}, {}
    for device, held in rest.items():
        here = [each for each in intervals if each.device == device]
        peaks[device] = held + _peak(here)
        activations[device] = _peak([each for each in here if each.is_activation])
        brought[device] = _peak([each for each in here if each.is_weight])
    return LiveBytes(rest, peaks, activations, brought)


@contextmanager
def _recorded(trace: _Trace) -> Iterator[None]:
    class Recorder(Executor):
        def run(self, order: Sequence[Action], inputs: Sequence[Any]) -> ReplicaResult:
            if any(action.kind == "B" for action in order):
                trace.order, trace.graph = list(order), tf.compat.v1.get_default_graph()
            return super().run(order, inputs)

    forward_backward.Executor = Recorder  # type: ignore[misc]
    try:
        yield
    finally:
        forward_backward.Executor = Executor  # type: ignore[misc]


@dataclass(frozen=True)
class _Interval:
    """A tensor on a device from one time to another, both included."""

    device: str
    size: int
    begin: float
    end: float
    is_activation: bool
    is_weight: bool


def _peak(intervals: Sequence[_Interval]) -> int:
    times = {each.begin for each in intervals}
    return max((sum(i.size for i in intervals if i.begin <= time <= i.end) for time in times), default=0)


def _intervals(trace: _Trace) -> list[_Interval]:
    """Return where and when the tensors of a step live that an action hands on, or that are brought to a device."""
    clock, origin = _Clock(trace.order), Origin(trace.graph, _device)
    # By (tensor, device): when it is there first, when it is read last, whether a backward action reads what a forward
    # action made, and whether it is a weight.
    lives: dict[tuple[Any, str], tuple[float, float, bool, bool]] = {}
    tensors = {}
    for reader in trace.graph.get_operations():
        now = clock.time(reader)
        if now is None:
            continue
        for given in reader.inputs:
            tensor = _weight_behind(origin(given), origin)
            made, device = clock.time(tensor.op), _device(reader)
            if given.dtype == tf.resource or made is None or not device or not given.shape.is_fully_defined():
                continue
            is_weight = tensor.op.type == "ReadVariableOp"
            if is_weight:
                if _device(tensor.op) == device:
                    continue  # The memory of the variable itself.
                # Read for a device when the actions before the read have run.
                made = max(
                    (after + 1 for each in tensor.op.control_inputs if (after := clock.time(each)) is not None),
                    default=0,
                )
            if made == now and _device(tensor.op) == device:
                continue
            key = (tensor.ref(), device)
            begin, end, kept, _ = lives.get(key, (made, now, False, is_weight))
            kept = kept or (not is_weight and clock.is_forward(tensor.op) and clock.is_backward(reader))
            lives[key] = min(begin, made), max(end, now), kept, is_weight
            tensors[key] = tensor
    return [_Interval(key[1], tensor_bytes(tensors[key]), *life) for key, life in lives.items()]


def _weight_behind(tensor: Any, origin: Origin) -> Any:
    """Return the read of a weight of which a tensor is a copy on another device; any other tensor as it is."""
    source = origin(tensor.op.inputs[0]) if tensor.op.type == "Identity" else tensor
    return source if source.op.type == "ReadVariableOp" else tensor


def _device(operation: Any) -> str:
    """Return the device of an operation; a read of a variable runs where the variable lies."""
    is_read = operation.type == "ReadVariableOp"
    handle = captured(operation.inputs[0]) if is_read else None
    return _short(operation.device if handle is None else handle.device)


def _short(device: str) -> str:
    """Return a device's name without the machine's; the empty name for none."""
    return device.rpartition("device:")[2]


class _Clock:
    """Tells when an operation runs, in actions of its lane."""

    def __init__(self, order: Sequence[Action]) -> None:
        self._at = {str(action): index for index, action in enumerate(order)}
        self._end = len(order)
        self._last = {action.stage: index for index, action in enumerate(order)}  # By stage: its last action.

    def time(self, operation: Any) -> float | None:
        """Return the time; None for what belongs to no action, reduction or update."""
        if match := _REDUCTION.search(operation.name):
            return self._last[int(match[1])] + 0.5
        if match := _ACTION.search(operation.name):
            return self._at.get(match[1])
        return self._end if _UPDATE.search(operation.name) else None

    def is_forward(self, operation: Any) -> bool:
        match = _ACTION.search(operation.name)
        return match is not None and "F" in match[1]

    def is_backward(self, operation: Any) -> bool:
        match = _ACTION.search(operation.name)
        return match is not None and "B" in match[1]
