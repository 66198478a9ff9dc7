"""Sums and rows of all replicas, as a step of the user's own sees them: differentiable, and equal on every replica.

A replica's loss counts in the whole batch's by its factor: by its part of the rows where losses are means over rows, by
1 where they are sums. All gradients follow from that:

```text
                    forward                              backward, to replica s
gradients           y = sum over r of f_r g_r            g_s gets  f_s times the sum over r of dy_r
all_reduce          y = sum over r of x_r                x_s gets  the sum over r of dy_r
gather              y = rows of all r, one after other   x_s gets  its rows of the sum over r of dy_r
```

Here each dy_r has the factor f_r in it, since the tape began with f_r at replica r's loss. Where it could not, dy_r
counts as f_r dy_r, and what replica s gets is divided by f_s, by which its gradients are multiplied in the end.

A jacobian is computed in a loop of TensorFlow's, where replicas cannot wait for one another. That of a target that is
equal on all replicas needs no sum there: each dy_r is dy, so that the sum is dy times the sum of the factors.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from kparallel.comm.communicator import local_copy
from kparallel.comm.compression import compressed, restored
from kparallel.compat.steps import outside_step
from kparallel.engine.placement import Placement
from kparallel.errors import ModelError
from kparallel.ownstep.portion import Portion, over, scaled
from kparallel.ownstep.user_code import line_of

__all__: list[str] = []


class StepSums:
    """What one replica sums and gathers with the others while its step runs.

    Args:
        placement: Where replicas run.
        share: What this one has of the batch.
        mark: Takes note of a tensor that is equal on all replicas.
        same_indices: Tells of slices whether all replicas have the same indices, so that they add up.
    """

    def __init__(
        self,
        placement: Placement,
        share: Portion,
        mark: Callable[[tf.Tensor], None],
        same_indices: Callable[[tf.IndexedSlices], bool],
    ) -> None:
        self._communicator = placement.communicators[-1]
        self._compression = placement.compression
        self.replicas = placement.replicas
        self.share = share
        self._mark = mark
        self._same_indices = same_indices
        self.refusals: list[ModelError] = []  # Autograph raises an error of its own in place of one of these.
        self._target: bool | None = None  # In a jacobian: whether its target is equal on all replicas.
        self._weighted: bool | None = None  # In a gradient: whether the factor is in what its tape began with.
        self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()

    @property
    def first(self) -> bool:
        """Whether this is the first replica."""
        return self._communicator.replica_index == 0

    def inside(self) -> bool:
        """Tell whether the step itself runs, and no function, condition or loop in it."""
        if self._graph is None:
            return bool(tf.executing_eagerly())
        return tf.compat.v1.get_default_graph() is self._graph

    def add(self, values: list[Any]) -> list[Any]:
        """Sum what all replicas give."""
        if not values:
            return []
        self.check_place()
        with outside_step():
            sums = [local_copy(value) for value in self._communicator.all_reduce(values)]
        return [self._equal(value) for value in sums]

    def collect(self, values: list[Any]) -> list[list[Any]]:
        """Return, for each value, the list of every replica's."""
        if not values:
            return []
        self.check_place()
        with outside_step():
            return self._communicator.all_gather(values)

    @property
    def in_jacobian(self) -> bool:
        """Whether the gradients that now leave a tape are rows of a jacobian."""
        return self._target is not None

    @contextmanager
    def jacobian(self, equal: bool) -> Iterator[None]:
        """Compute a jacobian.

        Args:
            equal: Whether its target is equal on all replicas.
        """
        self._target = equal
        try:
            yield
        finally:
            self._target = None

    @property
    def in_gradient(self) -> bool:
        """Whether a tape now computes gradients, as part of which functions may use tapes of their own."""
        return self._weighted is not None

    @contextmanager
    def gradient(self, weighted: bool) -> Iterator[None]:
        """Compute gradients.

        Args:
            weighted: Whether this replica's factor is in what the tape begins with.
        """
        self._weighted = weighted
        try:
            yield
        finally:
            self._weighted = None

    def jacobians(self, jacobians: list[tf.Tensor], equal: bool) -> list[tf.Tensor]:
        """Return the whole batch's jacobians of what each replica's rows give.

        Args:
            jacobians: Of weights.
            equal: Whether their target is equal on all replicas.
        """
        return self._totals([self.share.one_of_all(each) for each in jacobians] if equal else jacobians)

    def total(self, value: tf.Tensor) -> tf.Tensor:
        """Return the sum of a tensor over the replicas; the gradient reaches each one's part."""

        def whole(own: tf.Tensor) -> Any:
            def backward(upstream: tf.Tensor) -> tf.Tensor:
                return self._own(self._upstream([upstream]))[0]

            return self.add([self.share.counted(own)])[0], backward

        return self._equal(tf.identity(tf.custom_gradient(whole)(value)))

    def rows(self, value: tf.Tensor) -> tf.Tensor:
        """Return all replicas' rows of a tensor, in order; the gradient reaches each one's own."""
        # `sums` in the backward pass has the rows of all replicas; this one's begin where those of the replicas before
        # it end.
        index = self._communicator.replica_index

        def whole(own: tf.Tensor) -> Any:
            (parts,) = self.collect([own[: self.share.rows]])

            def backward(upstream: tf.Tensor) -> tf.Tensor:
                sums = self._upstream([upstream])[0]
                if not self.share.rows:
                    return tf.zeros_like(own)
                start = tf.add_n([tf.shape(part)[0] for part in parts[:index]]) if index else 0
                return self._own([sums[start : start + tf.shape(own)[0]]])[0]

            return tf.concat(parts, 0), backward

        return self._equal(tf.identity(tf.custom_gradient(whole)(value)))

    def gradients(self, gradients: list[Any], variables: list[Any], weighted: bool = False) -> list[Any]:
        """Return the whole batch's gradients of what each replica's rows give.

        Args:
            gradients: Tensors or `tf.IndexedSlices`, without None.
            variables: Of which they are.
            weighted: Whether each replica's factor is in them. Default False.
        """
        if not gradients or self.replicas == 1:
            return gradients
        # Slices with the same indices everywhere are summed value by value, as tensors; all others are concatenated.
        added = [not isinstance(g, tf.IndexedSlices) or self._same_indices(g) for g in gradients]
        dense = [_values(g, v) for g, v, adds in zip(gradients, variables, added, strict=True) if adds]
        slices = [self._scaled_slices(g, weighted) for g, adds in zip(gradients, added, strict=True) if not adds]
        sums = iter(self._totals(dense, weighted))
        kept = iter(self._travelled(slices))
        return [_like(g, next(sums)) if adds else next(kept) for g, adds in zip(gradients, added, strict=True)]

    def _totals(self, values: list[tf.Tensor], weighted: bool = False) -> list[tf.Tensor]:
        """Sum tensors by the replicas' factors. What is differentiated once more is so with every replica."""
        factor = self.share.factor

        def whole(*own: tf.Tensor) -> Any:
            def backward(*upstream: tf.Tensor) -> list[tf.Tensor]:
                found = self._own(self._upstream(upstream))
                # Here `own` has the factor in it already, or gets it below.
                return found if weighted else [scaled(each, factor) for each in found]

            parts = own if weighted else [scaled(each, factor) for each in own]
            return self._travelled([self.share.counted(each) for each in parts]), backward

        if not values:
            return []
        sums = [_of_shape(s, v.shape) for s, v in zip(tf.custom_gradient(whole)(*values), values, strict=True)]
        return [self._equal(value) for value in sums]

    def _upstream(self, upstream: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Return what reaches something that is equal on all replicas, of all of them."""
        if self._target:
            return [self.share.of_all(each) for each in upstream]
        factor = 1.0 if self._weighted else self.share.factor

        def whole(*own: tf.Tensor) -> Any:
            return self.add(list(own)), self._refuse_derivative

        # What reaches it from the padding row of an empty share is zero times its derivative, which may be infinite.
        return list(tf.custom_gradient(whole)(*(self.share.counted(scaled(each, factor)) for each in upstream)))

    def _refuse_derivative(self, *_: tf.Tensor) -> Any:
        """Refuse a derivative that only some replicas may ask for: those without rows would not wait for the others."""
        refusal = ModelError(
            "Expected gradients of gradients through a replica's own rows, received one through what is of all "
            f"replicas, by kparallel.gather, kparallel.all_reduce or a gradient of a gradient of weights{line_of()}: "
            "its first derivative alone is known. Take the inner gradient of a loss of the replica's own rows."
        )
        self.refusals.append(refusal)
        raise refusal

    def _own(self, upstream: list[tf.Tensor]) -> list[tf.Tensor]:
        """Return what reaches this replica's part of something that is equal on all replicas."""
        factor = 1.0 if self._weighted else self.share.factor
        return [self.share.counted(over(each, factor)) for each in upstream]

    def _travelled(self, values: list[Any]) -> list[Any]:
        return restored(self.add(compressed(values, self._compression)), values)

    def _scaled_slices(self, slices: tf.IndexedSlices, weighted: bool) -> tf.IndexedSlices:
        values = self.share.counted(slices.values if weighted else scaled(slices.values, self.share.factor))
        return tf.IndexedSlices(values, slices.indices, slices.dense_shape)

    def _equal(self, value: Any) -> Any:
        for part in [value.values, value.indices] if isinstance(value, tf.IndexedSlices) else [value]:
            self._mark(part)
        return value

    def check_place(self) -> None:
        """Refuse what needs the other replicas where the step cannot wait for them."""
        if self.inside():
            return
        if self.in_jacobian:
            refusal = ModelError(
                "Expected the jacobian of what follows from this replica's rows alone, or from what is equal on all "
                f"replicas alone, received that of both{line_of()}: it is computed in a loop, where replicas cannot "
                "wait for one another. Take tape.gradient of each entry, with a persistent tape."
            )
        else:
            refusal = ModelError(
                "Expected the gradients of weights, updates by an optimizer and sums over replicas in the step itself, "
                f"received one inside a tf.function, a condition or a loop{line_of()}: there the replicas cannot wait "
                "for one another. Move it out; a loop over numbers of Python's is no loop to TensorFlow, and "
                "tape.jacobian of the losses gives a gradient for each row."
            )
        self.refusals.append(refusal)
        raise refusal


def _values(gradient: Any, variable: Any) -> tf.Tensor:
    """Return what adds up of a gradient, of a known shape where it has one."""
    if isinstance(gradient, tf.IndexedSlices):
        return gradient.values
    gradient = tf.convert_to_tensor(gradient)
    return _of_shape(gradient, variable.shape)


def _of_shape(value: tf.Tensor, shape: Any) -> tf.Tensor:
    """Return a value of a shape that the graph may not know."""
    known = value.shape.is_fully_defined() and value.shape == shape
    return value if known else tf.ensure_shape(value, shape)


def _like(gradient: Any, total: tf.Tensor) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(total, gradient.indices, gradient.dense_shape)
    return total
