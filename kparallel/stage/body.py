"""The computation of a stage: a whole model, or some calls of an opened graph."""

import abc
import inspect
from collections.abc import Sequence
from typing import Any

import keras

from kparallel.compat.graph import call_operation, one_model_call
from kparallel.stage.graph import Call

__all__: list[str] = []


class Body(abc.ABC):
    """The computation of a stage.

    Law: the same inputs, weights and state give the same outputs and new state.
    """

    @abc.abstractmethod
    def __call__(self, inputs: list[Any], training: bool) -> list[Any]:
        """Return the outputs, in the order of the stage's `writes`."""

    @abc.abstractmethod
    def layers(self) -> list[keras.layers.Layer]:
        """Return the called layers, without the layers inside them."""


class Whole(Body):
    """A whole model, called by its own `call`.

    Args:
        model: The built model.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model

    def __call__(self, inputs: list[Any], training: bool) -> list[Any]:
        # A subclass may have a `call` without the argument `training`.
        takes_training = "training" in inspect.signature(self._model.call).parameters
        return [self._model(inputs[0], training=training) if takes_training else self._model(inputs[0])]

    def layers(self) -> list[keras.layers.Layer]:
        return [self._model]


class Segment(Body):
    """Some calls of an opened graph.

    Args:
        calls: The calls in topological order.
        reads: The numbers of the values that the segment receives.
        writes: The numbers of the values that it returns.
    """

    def __init__(self, calls: Sequence[Call], reads: tuple[int, ...], writes: tuple[int, ...]) -> None:
        self._calls = tuple(calls)
        self._reads = reads
        self._writes = writes

    def __call__(self, inputs: list[Any], training: bool) -> list[Any]:
        # By number. Values that only this segment reads are dropped when the call returns.
        values = dict(zip(self._reads, inputs, strict=True))
        # Outside of one model's call, the second call of a layer would drop the `add_loss` losses of its first.
        with one_model_call(training):
            for call in self._calls:
                arguments = {key: values[number] for key, number in call.reads}
                outputs = call_operation(call.operation, call.arguments, arguments, training)
                # A call reads what earlier calls of the segment wrote, or what the segment received.
                values.update(zip(call.writes, outputs, strict=True))
        return [values[number] for number in self._writes]

    def layers(self) -> list[keras.layers.Layer]:
        # A layer that is called twice appears once.
        operations = dict.fromkeys(call.operation for call in self._calls)
        return [operation for operation in operations if isinstance(operation, keras.layers.Layer)]


def trained(layers: list[keras.layers.Layer]) -> list[keras.Variable]:
    """Return the trainable variables of layers of a model that is not frozen itself.

    As in Keras, each variable's own attribute decides: a frozen block may contain a layer that was unfrozen afterwards.
    """
    return list({id(v): v for layer in layers for v in layer.variables if v.trainable}.values())
