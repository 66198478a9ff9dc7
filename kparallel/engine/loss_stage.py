"""What follows the last stage: losses of its outputs, their denominators over the whole batch, the first cotangents.

A denominator (valid tokens, weights) is summed over all microbatches and replicas before it divides. A schedule
that runs backward before its last forward pass needs it early; it is then counted first, in a pass of which
TensorFlow keeps only what the counts depend on (masks and shapes, seldom anything else).
"""

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from kparallel.compat.tensors import keras_logits, keras_mask, set_logits, set_mask
from kparallel.data.share import Share
from kparallel.engine.loss_state import LossState
from kparallel.engine.term_table import TermTable, WeightedTerm
from kparallel.stage.pipeline import Pipeline
from kparallel.stage.value import differentiable, is_differentiable

__all__: list[str] = []

LossFunction = Callable[[Any, Share], list[WeightedTerm]]


class Factors(NamedTuple):
    """What the numerators of the terms are multiplied by, one for each term of a `TermTable`.

    Args:
        gradient: For the gradient; contains the loss weight and the optimizer's loss scale.
        report: For the value that is reported.
    """

    gradient: list[tf.Tensor]
    report: list[tf.Tensor]


class Cotangent(NamedTuple):
    """The gradient of the loss for a value that travels: one leaf for each of its tensors, None where there is none.

    Args:
        tensor: For its tensors.
        logits: For the logits that Keras's losses read in place of the tensors; None before the last stage.
    """

    tensor: list[Any]
    logits: list[Any] | None = None


class OutputStage(abc.ABC):
    """What takes the outputs of the last stage.

    Args:
        stages: How many stages there are.
        training: Whether cotangents will be asked for.
    """

    def __init__(self, stages: int, training: bool) -> None:
        self.training = training
        self.terms = TermTable(stages)
        self._outputs: dict[int, Any] = {}

    def take(self, microbatch: int, outputs: Any) -> None:
        """Take one microbatch's outputs."""
        self._outputs[microbatch] = outputs

    def joined(self) -> Any:
        """Return all microbatches' outputs as one batch, with their masks and logits."""
        return _join([self._outputs[m] for m in sorted(self._outputs)])

    @abc.abstractmethod
    def cotangents(self, microbatch: int) -> dict[int, Cotangent]:
        """Return the cotangents of one microbatch's outputs, by the number of the value."""

    @abc.abstractmethod
    def added_factors(self, stage: int) -> list[tf.Tensor]:
        """Return the gradient factors of one stage's `add_loss` terms."""


class Predictions(OutputStage):
    """Keeps the outputs.

    Args:
        stages: How many stages there are.
    """

    def __init__(self, stages: int) -> None:
        super().__init__(stages, training=False)

    def cotangents(self, microbatch: int) -> dict[int, Cotangent]:
        return {}

    def added_factors(self, stage: int) -> list[tf.Tensor]:
        return []


class LossStage(OutputStage):
    """Losses of one replica's outputs.

    Args:
        pipeline: Knows which values the outputs are.
        device: The last stage's device.
        loss_function: Turns outputs and rows into weighted terms.
        shares: Each microbatch's rows.
        factors: Turns terms and this replica's statistics into factors.
        training: Whether gradients will be asked for.
        whole: All rows of the share if the loss function must see them at once, else None.
        statistics: This replica's statistics of all terms, if they were counted beforehand.
        loss_state: What the loss function does to state.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        device: str,
        loss_function: LossFunction,
        shares: Sequence[Share],
        factors: Callable[[list[WeightedTerm], list[tf.Tensor]], Factors],
        training: bool,
        whole: Share | None,
        statistics: list[tf.Tensor] | None,
        loss_state: LossState,
    ) -> None:
        super().__init__(len(pipeline.stages), training)
        self.loss_state = loss_state
        self._pipeline = pipeline
        self._device = device
        self._loss_function = loss_function
        self._shares = shares
        self._make_factors = factors
        self._whole = whole
        self._counted = statistics
        self._factors: Factors | None = None
        self._tapes: dict[int, tf.GradientTape] = {}
        self._cotangents: dict[int, dict[int, Cotangent]] = {}

    def take(self, microbatch: int, outputs: Any) -> None:
        """Take one microbatch's outputs and compute its terms, or all terms with the last one."""
        super().take(microbatch, outputs)
        if self._whole is None:
            self._compute(microbatch, [outputs], self._shares[microbatch])
        elif len(self._outputs) == len(self._shares):
            self._compute(0, [self._outputs[m] for m in range(len(self._shares))], self._whole)

    def cotangents(self, microbatch: int) -> dict[int, Cotangent]:
        if self._whole is None:
            return self._differentiated(microbatch, [microbatch])[microbatch]
        if not self._cotangents:  # One loss of all microbatches: its tape gives the cotangents of all.
            self._cotangents = self._differentiated(0, range(len(self._shares)))
        return self._cotangents[microbatch]

    def added_factors(self, stage: int) -> list[tf.Tensor]:
        return self.factors().gradient[self.terms.added_by(stage)]

    def factors(self) -> Factors:
        """Return the factors of all terms; asked for at the first backward action at the earliest."""
        if self._factors is None:
            with tf.device(self._device):
                statistics = self.statistics() if self._counted is None else self._counted
                self._factors = self._make_factors(self.terms.of_one_microbatch(), statistics)
        return self._factors

    def statistics(self) -> list[tf.Tensor]:
        """Return this replica's statistics of all terms, summed over the microbatches."""
        return self.terms.summed(lambda term: term.statistics)

    def values(self) -> list[tf.Tensor]:
        """Return this replica's part of the reported value of each term, as float64 scalars."""
        report = self.factors().report
        numerators = self.terms.summed(lambda term: [tf.cast(term.numerator, tf.float64)])
        return [numerator * factor for numerator, factor in zip(numerators, report, strict=True)]

    def _compute(self, key: int, parts: list[Any], share: Share) -> None:
        with tf.device(self._device), tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([_sources(outputs) for outputs in parts])
            self.terms.set_losses(key, self._loss_function(_join(parts), share))
        if self.training:
            self._tapes[key] = tape

    def _differentiated(self, key: int, microbatches: Sequence[int]) -> dict[int, dict[int, Cotangent]]:
        """Return the cotangents of the microbatches whose outputs one tape has seen."""
        numerators = [term.numerator for term in self.terms.losses(key)]
        factors = self.factors().gradient[: len(numerators)]
        upstream = [tf.cast(factor, n.dtype) for factor, n in zip(factors, numerators, strict=True)]
        outputs = [self._outputs[m] for m in microbatches]
        with tf.device(self._device):
            sources = [_sources(each) for each in outputs]
            gradients = self._tapes.pop(key).gradient(numerators, sources, output_gradients=upstream)
        return {m: self._by_number(*each) for m, *each in zip(microbatches, outputs, gradients, strict=True)}

    def _by_number(self, outputs: Any, gradients: list[Any]) -> dict[int, Cotangent]:
        """Assign the gradients of `_sources` to the numbers of the values that the outputs are."""
        flat = iter(gradients)
        tensors, logits = (
            self._pipeline.by_number(outputs, _with_holes(each, flat)) for each in (outputs, _logits(outputs))
        )
        return {number: Cotangent(leaves, logits[number]) for number, leaves in tensors.items()}


def _join(parts: list[Any]) -> Any:
    """Concatenate structures of tensors along their rows, with their masks and logits."""
    if len(parts) == 1:
        return parts[0]

    def one(*leaves: Any) -> Any:
        if leaves[0] is None:
            return None
        whole = tf.concat(leaves, 0)
        for read, attach in ((keras_mask, set_mask), (keras_logits, set_logits)):
            attributes = [read(leaf) for leaf in leaves]
            if attributes[0] is not None:
                attach(whole, tf.concat(attributes, 0))
        return whole

    return keras.tree.map_structure(one, *parts)


def _logits(outputs: Any) -> Any:
    return keras.tree.map_structure(keras_logits, outputs)


def _sources(outputs: Any) -> list[Any]:
    """Return what a loss is differentiated for: outputs, and the logits that Keras's losses read in their place."""
    return [*differentiable(outputs), *differentiable(_logits(outputs))]


def _with_holes(structure: Any, flat: Iterator[Any]) -> list[Any]:
    return [next(flat) if is_differentiable(leaf) else None for leaf in keras.tree.flatten(structure)]
