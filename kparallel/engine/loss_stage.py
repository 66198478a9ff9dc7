"""The stage after the last one: losses of the outputs, and the cotangents with which the backward pass begins.

```text
outputs[m] ─► loss function ─► term: numerator n[m], statistics b[m]
                                         │                │ sum over microbatches, all-reduce over replicas
                                         │                ▼
cotangents[m] ◄─ tape.gradient ◄─ n[m] × factor = loss weight × loss scale / (sum of b)
```

A denominator (valid tokens, weights) is summed over all microbatches and replicas before it divides. A schedule that
runs backward before its last forward pass needs the denominators before all of them are known. A separate pass then
counts them first; TensorFlow prunes that pass to what the counts depend on (masks and shapes, seldom anything else).
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
    """The factors of the terms' numerators. Both lists have one float64 scalar for each term of a `TermTable`.

    Args:
        gradient: The factors for the gradient; they contain the loss weight and the optimizer's loss scale.
        report: The factors for the reported values.
    """

    gradient: list[tf.Tensor]
    report: list[tf.Tensor]


class Counted(NamedTuple):
    """What the factors follow from.

    Args:
        terms: All terms of one microbatch; they say what the statistics mean.
        statistics: One replica's statistics of all terms, in one list.
    """

    terms: list[WeightedTerm]
    statistics: list[tf.Tensor]


class Cotangent(NamedTuple):
    """The gradient of the loss with respect to one `Value`. A leaf is None where the loss does not depend on it.

    Args:
        tensor: `[leaf]`: the cotangents of the value's tensors.
        logits: `[leaf]`: the cotangents of the logits that Keras's losses read in place of the tensors. None before the
            last stage.
    """

    tensor: list[Any]
    logits: list[Any] | None = None


class OutputStage(abc.ABC):
    """The receiver of the last stage's outputs.

    Args:
        stages: The number of stages.
        training: Whether the executor runs backward and needs cotangents.
    """

    def __init__(self, stages: int, training: bool) -> None:
        self.training = training
        self.terms = TermTable(stages)
        self._outputs: dict[int, Any] = {}  # `[m]`

    def take(self, microbatch: int, outputs: Any) -> None:
        """Store one microbatch's outputs."""
        self._outputs[microbatch] = outputs

    def miss(self) -> None:
        """Take note that a microbatch has no rows on this replica, where other workers take its outputs now."""
        return None

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
    """Stores the outputs for `predict`, without a loss.

    Args:
        stages: The number of stages.
    """

    def __init__(self, stages: int) -> None:
        super().__init__(stages, training=False)

    def cotangents(self, microbatch: int) -> dict[int, Cotangent]:
        return {}

    def added_factors(self, stage: int) -> list[tf.Tensor]:
        return []


class LossStage(OutputStage):
    """The losses of one replica's outputs.

    Args:
        pipeline: Maps outputs to the numbers of their values.
        device: The last stage's device.
        loss_function: Takes outputs and their rows, returns weighted terms.
        shares: `[m]`: each microbatch's rows.
        factors: Takes one microbatch's terms and this replica's statistics, returns the factors of the whole batch.
        training: Whether gradients will be needed.
        whole: All rows of the share if the loss function needs them at once, else None.
        counted: The terms and this replica's statistics of them if they were counted beforehand, else None.
        loss_state: The state that the loss function changes.
        missing: How many microbatches `miss` will tell of. Default 0.
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
        counted: Counted | None,
        loss_state: LossState,
        missing: int = 0,
    ) -> None:
        super().__init__(len(pipeline.stages), training)
        self._missing = missing
        self.loss_state = loss_state
        self._pipeline = pipeline
        self._device = device
        self._loss_function = loss_function
        self._shares = shares
        self._make_factors = factors
        self._whole = whole
        self._counted = counted
        self._factors: Factors | None = None
        # `[m]`: from the forward pass of a microbatch to its backward pass.
        self._tapes: dict[int, tf.GradientTape] = {}
        # `[m][number]`: filled by a loss of the whole share only.
        self._cotangents: dict[int, dict[int, Cotangent]] = {}

    def take(self, microbatch: int, outputs: Any) -> None:
        """Store one microbatch's outputs and compute its terms; a loss of the whole share waits for the last one."""
        super().take(microbatch, outputs)
        # A tape is stored under its microbatch. The one tape of a loss of the whole share is stored under 0.
        if self._whole is None:
            self._compute(microbatch, [outputs], self._shares[microbatch])
        else:
            self._compute_whole()

    def miss(self) -> None:
        if self._missing:
            self._missing -= 1
            self._compute_whole()

    def cotangents(self, microbatch: int) -> dict[int, Cotangent]:
        if self._whole is None:
            return self._differentiated(microbatch, [microbatch])[microbatch]
        # One tape has seen the outputs of all microbatches. The first backward action, whichever microbatch it has,
        # differentiates it for all of them.
        if not self._cotangents:
            self._cotangents = self._differentiated(0, range(len(self._shares)))
        return self._cotangents[microbatch]

    def added_factors(self, stage: int) -> list[tf.Tensor]:
        return self.factors().gradient[self.terms.added_by(stage)]

    def factors(self) -> Factors:
        """Return the factors of all terms. They are made at the first call, which all-reduces the statistics."""
        if self._factors is None:
            # The first call comes from the first backward action. By then either every microbatch has run forward, or
            # the statistics were counted beforehand.
            with tf.device(self._device):
                self._factors = self._make_factors(*(self._counted or self.count()))
        return self._factors

    def count(self) -> Counted:
        """Return the terms, and this replica's statistics of them, summed over the microbatches."""
        return Counted(self.terms.of_one_microbatch(), self.terms.summed(lambda term: term.statistics))

    def values(self) -> list[tf.Tensor]:
        """Return this replica's part of the reported value of each term, as float64 scalars."""
        report = self.factors().report
        numerators = self.terms.summed(lambda term: [tf.cast(term.numerator, tf.float64)])
        return [numerator * factor for numerator, factor in zip(numerators, report, strict=True)]

    def _compute_whole(self) -> None:
        """Compute a loss of the whole share, once no worker will take outputs any more: it gathers those of all."""
        if self._whole is not None and len(self._outputs) == len(self._shares) and not self._missing:
            self._compute(0, [self._outputs[m] for m in range(len(self._shares))], self._whole)

    def _compute(self, key: int, parts: list[Any], share: Share) -> None:
        # The tape begins at the outputs: a loss depends on the weights through the last stage's tape only.
        with tf.device(self._device), tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([_sources(outputs) for outputs in parts])
            self.terms.set_losses(key, self._loss_function(_join(parts), share))
        if self.training:
            self._tapes[key] = tape

    def _differentiated(self, key: int, microbatches: Sequence[int]) -> dict[int, dict[int, Cotangent]]:
        """Return the cotangents of the microbatches whose outputs one tape has seen."""
        numerators = [term.numerator for term in self.terms.losses(key)]
        factors = self.factors().gradient[: len(numerators)]
        # A numerator is not divided yet: its cotangent is its factor. The factors of `add_loss` terms come last; those
        # terms are differentiated by their stages' own tapes.
        upstream = [tf.cast(factor, n.dtype) for factor, n in zip(factors, numerators, strict=True)]
        outputs = [self._outputs[m] for m in microbatches]
        with tf.device(self._device):
            sources = [_sources(of_microbatch) for of_microbatch in outputs]
            # Popped: a tape is used once, and would keep the activations of the losses alive.
            gradients = self._tapes.pop(key).gradient(numerators, sources, output_gradients=upstream)
        return {m: self._by_number(*each) for m, *each in zip(microbatches, outputs, gradients, strict=True)}

    def _by_number(self, outputs: Any, gradients: list[Any]) -> dict[int, Cotangent]:
        """Assign the gradients of `_sources` to the numbers of the values that the outputs are."""
        flat = iter(gradients)  # First those of the outputs' leaves, then those of the logits.
        tensors, logits = (
            self._pipeline.by_number(outputs, _per_leaf(each, flat)) for each in (outputs, _logits(outputs))
        )
        return {number: Cotangent(leaves, logits[number]) for number, leaves in tensors.items()}


def _join(parts: list[Any]) -> Any:
    """Concatenate structures of tensors along their rows, with their masks and logits."""
    if len(parts) == 1:
        return parts[0]

    def concatenated(*leaves: Any) -> Any:
        if leaves[0] is None:
            return None
        batch = tf.concat(leaves, 0)
        # A new tensor has none of the attributes by which Keras passes masks and logits to its losses.
        for read, attach in ((keras_mask, set_mask), (keras_logits, set_logits)):
            attributes = [read(leaf) for leaf in leaves]
            if attributes[0] is not None:
                attach(batch, tf.concat(attributes, 0))
        return batch

    return keras.tree.map_structure(concatenated, *parts)


def _logits(outputs: Any) -> Any:
    return keras.tree.map_structure(keras_logits, outputs)


def _sources(outputs: Any) -> list[Any]:
    """Return the tensors with respect to which a loss is differentiated.

    These are the outputs, and the logits that Keras attaches to a softmax's or sigmoid's output. A cross-entropy reads
    the logits in place of the output, so the output's own gradient is None then.
    """
    return [*differentiable(outputs), *differentiable(_logits(outputs))]


def _per_leaf(structure: Any, flat: Iterator[Any]) -> list[Any]:
    """Return one gradient for each leaf of a structure, None for a leaf that is not differentiable."""
    return [next(flat) if is_differentiable(leaf) else None for leaf in keras.tree.flatten(structure)]
