"""One forward pass of a stage on one microbatch, which its backward actions differentiate."""

import abc
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kparallel.engine.stage_device import StageDevice
from kparallel.engine.stage_function import StageFunction, TracedStage
from kparallel.loss.term import Term, added_term
from kparallel.stage.stage import Forward
from kparallel.stage.value import Value, differentiable_leaves, unused_leaves

__all__: list[str] = []


class StageCall(abc.ABC):
    """A forward pass that can be differentiated once: first `input_gradients`, then `weight_gradients`.

    Args:
        forward: Its result.
        added: Its `add_loss` terms.
    """

    def __init__(self, forward: Forward, added: list[Term]) -> None:
        self.forward = forward
        self.added = added

    def renew_weights(self, weights: list[Any]) -> None:
        """Take the weights anew, so that those of the forward pass need not be kept.

        Call it before either method below. A call that cannot let go of the first ones keeps them, with the same
        result.
        """
        return None

    @abc.abstractmethod
    def input_gradients(self, cotangents: Sequence[Any], factors: Sequence[tf.Tensor]) -> list[Any]:
        """Return the gradients of what the stage received from earlier stages, None where nothing depends on it.

        Args:
            cotangents: One for each of `differentiable_leaves` of the outputs; None where no loss depends on it.
            factors: The factors of `added` in the loss.
        """

    @abc.abstractmethod
    def weight_gradients(self) -> list[Any]:
        """Return the gradients of the stage's weights: tensors or `tf.IndexedSlices`, None as above."""

    @abc.abstractmethod
    def intermediate(self) -> list[Any]:
        """Return what `input_gradients` has computed beside its result, for `weight_gradients`."""


class TapedCall(StageCall):
    """A forward pass on a tape. Both kinds of gradients come from one backward pass.

    Args:
        function: The stage's function.
        device: Where the stage runs.
        weights, state, inputs: The function's arguments.
        received: The tensors among the inputs that earlier stages computed.
        rows: The number of rows of the microbatch.
    """

    def __init__(
        self,
        function: StageFunction,
        device: StageDevice,
        weights: list[Any],
        state: list[Any],
        inputs: list[Value],
        received: list[Any],
        rows: int,
    ) -> None:
        self._function = function
        self._arguments = weights, state, inputs
        self._rows = rows
        self._sources = [received, weights]
        self._device = device
        super().__init__(*self._run())
        self._of_weights: list[Any] = [None] * len(weights)

    def _run(self) -> tuple[Forward, list[Term]]:
        self._unused = getattr(self._function, "unused", ())
        with tf.GradientTape(watch_accessed_variables=False) as self._tape:
            self._tape.watch(self._sources)
            forward = self._function(*self._arguments)
            return forward, [added_term(value, self._rows) for value in forward.added]

    def input_gradients(self, cotangents: Sequence[Any], factors: Sequence[tf.Tensor]) -> list[Any]:
        unused = unused_leaves(self.forward.outputs, cotangents)
        if isinstance(self._function, TracedStage) and self._unused != unused:
            self._function.unused = unused  # Calls of later microbatches are made as this one should have been.
            if self._function.repeats:
                self.forward, self.added = self._run()
        leaves = differentiable_leaves(self.forward.outputs)
        pairs = [(leaf, each) for leaf, each in zip(leaves, cotangents, strict=True) if each is not None]
        pairs += [(term.numerator, factor) for term, factor in zip(self.added, factors, strict=True)]
        if not pairs:
            return [None] * len(self._sources[0])
        targets, upstream = [target for target, _ in pairs], [cotangent for _, cotangent in pairs]
        with self._device.backward():
            of_inputs, self._of_weights = self._tape.gradient(targets, self._sources, output_gradients=upstream)
        return list(of_inputs)

    def weight_gradients(self) -> list[Any]:
        return self._of_weights

    def intermediate(self) -> list[Any]:
        return self._of_weights
