"""What a stage computes: a whole model, or some calls of an opened graph."""

import abc
from collections.abc import Sequence
from typing import Any

import keras

from kparallel.compat.graph import call_operation, one_model_call
from kparallel.compat.layers import call_takes_training
from kparallel.stage.graph import Call

__all__: list[str] = []


class Body(abc.ABC):
    """What a stage computes. Law: the same inputs, weights and state give the same outputs and new state."""

    @abc.abstractmethod
    def __call__(self, inputs: list[Any], training: bool) -> list[Any]:
        """Return the outputs, in the order of the stage's `writes`."""

    @abc.abstractmethod
    def layers(self) -> list[keras.layers.Layer]:
        """Return the layers called, those inside others left out."""


class Whole(Body):
    """A whole model, called as its class says.

    Args:
        model: The built model.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model

    def __call__(self, inputs: list[Any], training: bool) -> list[Any]:
        call = {"training": training} if call_takes_training(self._model) else {}
        return [self._model(inputs[0], **call)]

    def layers(self) -> list[keras.layers.Layer]:
        return [self._model]


class Segment(Body):
    """Some calls of an opened graph.

    Args:
        calls: In topological order.
        reads: Numbers of the values that come in.
        writes: Numbers of the values that go out.
    """

    def __init__(self, calls: Sequence[Call], reads: tuple[int, ...], writes: tuple[int, ...]) -> None:
        self._calls = tuple(calls)
        self._reads = reads
        self._writes = writes

    def __call__(self, inputs: list[Any], training: bool) -> list[Any]:
        values = dict(zip(self._reads, inputs, strict=True))
        with one_model_call(training):
            for call in self._calls:
                arguments = {key: values[number] for key, number in call.reads}
                outputs = call_operation(call.operation, call.arguments, arguments, training)
                values.update(zip(call.writes, outputs, strict=True))
        return [values[number] for number in self._writes]

    def layers(self) -> list[keras.layers.Layer]:
        operations = dict.fromkeys(call.operation for call in self._calls)
        return [operation for operation in operations if isinstance(operation, keras.layers.Layer)]


def trained(layers: list[keras.layers.Layer]) -> list[keras.Variable]:
    """Return the variables of layers that train in a model that is not frozen itself.

    Each variable tells by itself, as for Keras: a block that is frozen as a whole may hold a layer that was unfrozen.
    """
    return list({id(v): v for layer in layers for v in layer.variables if v.trainable}.values())
