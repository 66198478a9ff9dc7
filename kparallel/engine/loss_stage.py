"""Behind the last stage: losses of the outputs, their denominators over the whole batch, and the first cotangents.

A denominator (valid tokens, weights) is summed over all microbatches and replicas before it divides. A schedule
that runs backward before its last forward pass needs it early; it is then counted first, in a pass of which
TensorFlow keeps only what the counts depend on (masks and shapes, seldom anything else).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.tensors import keras_logits, keras_mask, set_logits, set_mask
from kparallel.data.share import Rows
from kparallel.engine.loss_state import LossState
from kparallel.loss.term import LossWeight, Term
from kparallel.stage.pipeline import Pipeline

__all__: list[str] = []

LossFunction = Callable[[Any, Rows], list[tuple[LossWeight, Term]]]
Factors = Callable[[list[tuple[LossWeight, Term]], list[tf.Tensor]], tuple[list[tf.Tensor], list[tf.Tensor]]]
Cotangents = tuple[dict[int, list[Any]], dict[int, list[Any]]]


class LossStage:
    """Losses of one replica's outputs.

    Args:
        pipeline: Knows which values the outputs are.
        device: The last stage's device.
        loss_function: Turns outputs and rows into (loss weight, term) pairs.
        rows: Each microbatch's rows.
        factors: Turns pairs and local statistics into (gradient factors, report factors).
        training: Whether gradients will be asked for.
        whole: The share's rows if the loss_function must see all of them at once, else None.
        counted: The local statistics, if they were counted beforehand.
        loss_state: What the loss_function does to state.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        device: str,
        loss_function: LossFunction,
        rows: Sequence[Rows],
        factors: Factors,
        training: bool,
        whole: Rows | None,
        counted: list[tf.Tensor] | None,
        loss_state: LossState,
    ) -> None:
        self.loss_state = loss_state
        self.training = training
        self._pipeline = pipeline
        self._device = device
        self._loss_function = loss_function
        self._rows = rows
        self._factors = factors
        self._whole = whole
        self._counted = counted
        self.taken: dict[int, Any] = {}
        self._terms: dict[int, list[tuple[LossWeight, Term]]] = {}
        self._tapes: dict[int, tf.GradientTape] = {}
        self._resolved: tuple[list[tf.Tensor], list[tf.Tensor]] | None = None
        self._added_counts: list[int] = []
        self._whole_cotangents: dict[int, Cotangents] | None = None

    def take(self, microbatch: int, outputs: Any) -> None:
        """Take one microbatch's outputs and compute its terms, or all terms with the last one."""
        self.taken[microbatch] = outputs
        if self._whole is None:
            self._compute(microbatch, outputs, self._rows[microbatch])
        elif len(self.taken) == len(self._rows):
            self._compute(0, None, self._whole)

    def joined(self) -> Any:
        """Return all microbatches' outputs as one batch, with their masks."""
        return join([self.taken[m] for m in sorted(self.taken)])

    def cotangents(self, microbatch: int, added: list[list[list[Term]]]) -> Cotangents:
        """Return the gradients of the loss for one microbatch's outputs and for the logits behind them, by number."""
        gradient, _ = self.resolve(added)
        if self._whole is None:
            return self._gradients(microbatch, self.taken[microbatch], gradient)
        if self._whole_cotangents is None:
            self._whole_cotangents = {}
            with tf.device(self._device):
                numerators = [term.numerator for _, term in self._terms[0]]
                taken = [self.taken[m] for m in range(len(self._rows))]
                leaves = [_sources(outputs) for outputs in taken]
                flat = self._tapes[0].gradient(
                    numerators, leaves, output_gradients=_cast(gradient[: len(numerators)], numerators)
                )
            for m, (outputs, gradients) in enumerate(zip(taken, flat, strict=True)):
                self._whole_cotangents[m] = self._by_number(outputs, gradients)
        return self._whole_cotangents[microbatch]

    def added_factors(self, stage: int) -> list[tf.Tensor]:
        """Return the gradient factors of one stage's `add_loss` terms."""
        assert self._resolved is not None
        start = len(self._any_terms()) + sum(self._added_counts[:stage])
        return self._resolved[0][start : start + self._added_counts[stage]]

    def resolve(self, added: list[list[list[Term]]]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Return the (gradient, report) factors of all terms: the losses' first, then each stage's `add_loss`."""
        if self._resolved is None:
            self._added_counts = [len(stage[0]) for stage in added]
            pairs = self.pairs(added)
            with tf.device(self._device):
                statistics = self._counted if self._counted is not None else self.statistics(added)
                self._resolved = self._factors(pairs, statistics)
        return self._resolved

    def pairs(self, added: list[list[list[Term]]]) -> list[tuple[LossWeight, Term]]:
        """Return (loss weight, term) of every loss, from one microbatch."""
        return [*self._any_terms(), *((None, term) for stage in added for term in stage[0])]

    def statistics(self, added: list[list[list[Term]]]) -> list[tf.Tensor]:
        """Return this replica's statistics of all terms, summed over the microbatches."""
        return self._over_microbatches(added, lambda term: term.statistics)

    def numerators(self, added: list[list[list[Term]]]) -> list[tf.Tensor]:
        """Return this replica's numerators of all terms, summed over the microbatches, as float64 scalars."""
        return self._over_microbatches(added, lambda term: [tf.cast(term.numerator, tf.float64)])

    def _over_microbatches(
        self, added: list[list[list[Term]]], values: Callable[[Term], list[tf.Tensor]]
    ) -> list[tf.Tensor]:
        own = [[term for _, term in self._terms[m]] for m in sorted(self._terms)]
        totals: list[tf.Tensor] = []
        for parts in [own, *added]:
            flat = [[value for term in part for value in values(term)] for part in parts]
            totals += [tf.add_n(list(each)) if len(each) > 1 else each[0] for each in zip(*flat, strict=True)]
        return totals

    def _any_terms(self) -> list[tuple[LossWeight, Term]]:
        return self._terms[min(self._terms)]

    def _compute(self, key: int, outputs: Any, rows: Rows) -> None:
        with tf.device(self._device), tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(_sources(outputs if self._whole is None else [self.taken[m] for m in sorted(self.taken)]))
            if self._whole is not None:
                outputs = self.joined()
            self._terms[key] = self._loss_function(outputs, rows)
        if self.training:
            self._tapes[key] = tape

    def _gradients(self, key: int, outputs: Any, factors: list[tf.Tensor]) -> Cotangents:
        numerators = [term.numerator for _, term in self._terms[key]]
        with tf.device(self._device):
            flat = self._tapes.pop(key).gradient(
                numerators, _sources(outputs), output_gradients=_cast(factors[: len(numerators)], numerators)
            )
        return self._by_number(outputs, flat)

    def _by_number(self, outputs: Any, gradients: list[Any]) -> Cotangents:
        flat = iter(gradients)
        structures = (outputs, keras.tree.map_structure(keras_logits, outputs))
        first, second = (self._pipeline.by_number(outputs, _with_holes(each, flat)) for each in structures)
        return first, second


def join(parts: list[Any]) -> Any:
    """Concatenate structures of tensors along their rows, with their masks and logits."""
    if len(parts) == 1:
        return parts[0]

    def one(*leaves: Any) -> Any:
        if leaves[0] is None:
            return None
        whole = tf.concat(leaves, 0)
        for read, attach in ((keras_mask, set_mask), (keras_logits, set_logits)):
            behind = [read(leaf) for leaf in leaves]
            if behind[0] is not None:
                attach(whole, tf.concat(behind, 0))
        return whole

    return keras.tree.map_structure(one, *parts)


def _watched(structure: Any) -> list[Any]:
    return [leaf for leaf in keras.tree.flatten(structure) if _floating(leaf)]


def _sources(outputs: Any) -> list[Any]:
    """Return what a loss is differentiated for: outputs, and the logits that Keras's losses read in their place."""
    return [*_watched(outputs), *_watched(keras.tree.map_structure(keras_logits, outputs))]


def _with_holes(structure: Any, flat: Iterator[Any]) -> list[Any]:
    return [next(flat) if _floating(leaf) else None for leaf in keras.tree.flatten(structure)]


def _floating(leaf: Any) -> bool:
    return leaf is not None and tf.as_dtype(leaf.dtype).is_floating


def _cast(factors: list[tf.Tensor], numerators: list[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.cast(f, n.dtype) for f, n in zip(factors, numerators, strict=True)]
