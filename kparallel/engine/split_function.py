"""A stage whose backward pass is split: three functions, cut out of one trace of its forward and backward pass.

```text
weights, state, inputs ─► forward ─► outputs          F
                             │ saved activations
cotangents of outputs ─► of inputs ─► gradients       B: what the gradients of the inputs depend on
                             │ gradients of activations
                         of weights ─► gradients      W: what only the gradients of the weights depend on
```

No operation occurs in two of the functions, but for constants. A persistent tape that is asked for the gradients of
inputs first, and of weights later, computes those of the activations twice: four products of matrices for each dense
layer in place of three. It also gives the results of a stage that is one function by one call, which no order can
part. A tape for each layer's call would have to open every layer that is made of others, such as attention.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from kparallel.compat.functions import without_devices
from kparallel.engine.shared_traces import SharedTraces
from kparallel.engine.stage_call import StageCall
from kparallel.engine.stage_function import compiles, refuse_foreign
from kparallel.engine.stage_parts import Joint, Parts, returned, tensors_of
from kparallel.loss.term import Term, added_term
from kparallel.stage.stage import Forward, Stage
from kparallel.stage.value import (
    Value,
    differentiable,
    differentiable_leaves,
    is_differentiable,
    unused_leaves,
    without_gradient,
)

__all__: list[str] = []

_Arguments = tuple[list[Any], list[Any], list[Value]]  # Weights, state and inputs.


class SplitFunction:
    """Runs a stage forward such that its backward pass has two parts.

    Args:
        stage: The stage.
        received: For each value that the stage reads, whether an earlier stage computed it.
        jit: Whether to compile with XLA if every layer of the stage allows it.
        renews: Whether calls take the weights anew before their backward pass. Then the forward pass leaves nothing
            that follows from weights alone, such as a copy in another dtype: it would keep their bytes. Default False.
    """

    def __init__(self, stage: Stage, received: Sequence[bool], jit: bool, renews: bool = False) -> None:
        self._stage = stage
        self._received = tuple(received)
        self._jit = jit and compiles(stage)
        self._renews = renews
        self.unused: tuple[int, ...] = ()  # As of `TracedStage`.
        self._traces = SharedTraces(self._joint, self._jit)
        # By the traced graph: its tensors while it is traced, its parts from then on.
        self._joints: dict[Any, Joint] = {}
        self._parts: dict[Any, Parts] = {}

    def call(self, weights: list[Any], state: list[Any], inputs: list[Value], rows: int) -> "SplitCall":
        """Run the stage forward.

        Args:
            weights, state, inputs: As of `Stage.forward`.
            rows: The number of rows of the microbatch.
        """
        return SplitCall(self, (weights, state, inputs), rows)

    def forward(self, arguments: "_Arguments") -> "tuple[Parts, dict[str, tf.Tensor], Forward]":
        """Run the stage forward.

        Returns:
            The parts of the stage; the values of tensors of the traced graph, by name; the result.
        """
        function = self._traces.of((*arguments, self.unused))
        graph = function.graph
        if graph not in self._parts:
            refuse_foreign(graph.variables, self._stage)
            with without_devices():  # The operations keep the devices that they have in the traced graph.
                self._parts[graph] = Parts(function, self._joints.pop(graph), self._jit, self._renews)
        parts = self._parts[graph]
        given = zip(parts.joint.arguments, tensors_of(arguments), strict=True)
        values = {inside.name: value for inside, value in given}
        values |= {inside.name: value for value, inside in parts.captures}
        values |= parts.forward(values)
        outputs, added, assigned, state = _valued(returned(parts.joint.forward), values)
        return parts, values, Forward(outputs, added, assigned, state, self._stage.state_rules(True))

    def _joint(self, weights: list[Any], state: list[Any], inputs: list[Value], unused: tuple[int, ...]) -> None:
        """Trace both passes. The parts are cut out of this graph, which itself is never run."""
        graph = tf.compat.v1.get_default_graph()
        received = differentiable(
            [v.tensor for v, is_received in zip(inputs, self._received, strict=True) if is_received]
        )
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([received, weights])
            forward = _symbolic(self._stage.forward(weights, state, inputs, True))
            forward = replace(forward, outputs=without_gradient(forward.outputs, unused))
        stateful = [operation for operation in graph.get_operations() if operation.op_def.is_stateful]
        leaves = [*differentiable_leaves(forward.outputs), *forward.added]
        upstream = [
            _placeholder(leaf) if is_differentiable(leaf) and place not in unused else None
            for place, leaf in enumerate(leaves)
        ]
        pairs = [(leaf, each) for leaf, each in zip(leaves, upstream, strict=True) if each is not None]
        targets, cotangents = [leaf for leaf, _ in pairs], [each for _, each in pairs]
        of_inputs, of_weights = [None] * len(received), [None] * len(weights)
        if pairs:
            of_inputs, of_weights = tape.gradient(targets, [received, weights], output_gradients=cotangents)
        of_inputs = [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in of_inputs]
        arguments = tensors_of((weights, state, inputs))
        self._joints[graph] = Joint(arguments, len(weights), forward, stateful, upstream, of_inputs, of_weights)


class SplitCall(StageCall):
    """A forward pass whose backward pass has two parts.

    Args:
        function: The stage's function.
        arguments: Its arguments.
        rows: The number of rows of the microbatch.
    """

    def __init__(self, function: SplitFunction, arguments: _Arguments, rows: int) -> None:
        self._function = function
        self._arguments = arguments
        self._rows = rows
        self._handed: list[str] = []  # The names of what `weight_gradients` reads and `input_gradients` has left.
        self._leaves: set[str] = set()
        self._renewed: list[Any] = arguments[0]
        super().__init__(*self._run())

    def _run(self) -> tuple[Forward, list[Term]]:
        self._unused = self._function.unused
        # The values of tensors of the traced graph, by name: all that the forward pass has left.
        self.parts, self._values, forward = self._function.forward(self._arguments)
        # The tape is the terms' own, from the values that the stage returned on.
        with tf.GradientTape(watch_accessed_variables=False) as self._tape:
            self._tape.watch(forward.added)
            return forward, [added_term(value, self._rows) for value in forward.added]

    def renew_weights(self, weights: list[Any]) -> None:
        self._renewed = weights

    def input_gradients(self, cotangents: Sequence[Any], factors: Sequence[tf.Tensor]) -> list[Any]:
        unused = unused_leaves(self.forward.outputs, cotangents)
        if self._unused != unused:
            self._function.unused = unused  # Calls of later microbatches are made as this one should have been.
            if not self.parts.joint.stateful:  # As `TracedStage.repeats`.
                self.forward, self.added = self._run()
        joint, of_added = self.parts.joint, []
        self._values |= self._weight_values()
        if self.added:
            numerators = [term.numerator for term in self.added]
            of_added = self._tape.gradient(numerators, self.forward.added, output_gradients=list(factors))
        leaves = [*differentiable_leaves(self.forward.outputs), *self.forward.added]
        for inside, leaf, cotangent in zip(joint.upstream, leaves, [*cotangents, *of_added], strict=True):
            if inside is not None:
                # A function has all its arguments. What depends on no cotangent at all is left out below.
                self._values[inside.name] = (
                    tf.zeros_like(leaf) if cotangent is None else tf.convert_to_tensor(cotangent)
                )
                if cotangent is not None:
                    self._leaves.add(inside.name)
        if not self._leaves:
            return [None] * len(joint.of_inputs)
        results = self.parts.of_inputs(self._values)
        self._values |= results
        upstream = {inside.name for inside in joint.upstream if inside is not None}
        taken = {tensor.name for tensor in self.parts.of_weights.takes}
        self._handed = sorted(taken & (results.keys() | upstream))
        return [self._gradient(gradient) for gradient in joint.of_inputs]

    def weight_gradients(self) -> list[Any]:
        if not self._leaves:
            return [None] * len(self.parts.joint.of_weights)
        self._values |= self._weight_values()
        # Copies belong to this action: the control edge before them holds the whole part back.
        self._values |= {name: tf.identity(self._values[name]) for name in self._handed}
        self._values |= self.parts.of_weights(self._values)
        return [self._gradient(gradient) for gradient in self.parts.joint.of_weights]

    def intermediate(self) -> list[Any]:
        return [self._values[name] for name in self._handed]

    def _weight_values(self) -> dict[str, Any]:
        joint = self.parts.joint
        inside = joint.arguments[: joint.weights]
        return {tensor.name: value for tensor, value in zip(inside, self._renewed, strict=True)}

    def _gradient(self, gradient: Any) -> Any:
        """Return the value of a gradient, None if it depends on cotangents of which there is none."""
        if gradient is None:
            return None
        missing = {inside.name for inside in self.parts.joint.upstream if inside is not None} - self._leaves
        depends_on = self.parts.depends_on
        # The "gradient" of a float8 scale is its new value, which depends on no cotangent at all.
        if missing and depends_on(gradient, missing) and not depends_on(gradient, self._leaves):
            return None
        return _valued(gradient, self._values)


def _valued(structure: Any, values: dict[str, tf.Tensor]) -> Any:
    """Return a structure of the traced graph with the tensors' values, by name."""
    flat = [
        values[leaf.name] if isinstance(leaf, tf.Tensor) else leaf
        for leaf in tf.nest.flatten(structure, expand_composites=True)
    ]
    return tf.nest.pack_sequence_as(structure, flat, expand_composites=True)


def _symbolic(forward: Forward) -> Forward:
    """Return a result in which a tensor that a layer made outside of the graph is one of the graph's."""

    def inside(leaf: Any) -> Any:
        return tf.identity(leaf) if isinstance(leaf, tf.Tensor) and not tf.is_symbolic_tensor(leaf) else leaf

    outputs, added, assigned, state = tf.nest.map_structure(inside, returned(forward), expand_composites=True)
    return replace(forward, outputs=outputs, added=added, assigned=assigned, state=state)


def _placeholder(leaf: tf.Tensor) -> tf.Tensor:
    return tf.compat.v1.placeholder(leaf.dtype, leaf.shape)
