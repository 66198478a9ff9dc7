"""A model as a sequence of stages, with the numbers of the values that each stage reads and writes.

```text
values             0 ─► stage 0 ─► 1, 2       stage 0 reads 0     and writes 1, 2
                        stage 1 ─► 3          stage 1 reads 1     and writes 3
                        stage 2 ─► 4          stage 2 reads 2, 3  and writes 4      (2 skips stage 1)
```
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from kparallel.compat.graph import inner_functional
from kparallel.errors import PlanError
from kparallel.stage.body import Segment, Whole
from kparallel.stage.graph import Graph
from kparallel.stage.stage import Stage
from kparallel.stage.value import Value

__all__: list[str] = []


class Pipeline:
    """The stages of a model.

    Args:
        stages: The stages in the order of the model.
        inputs: The numbers of the model's inputs.
        outputs: The numbers of the model's outputs.
        standardize: Returns the model's flat inputs from what the model is called with.
        structure: The structure of the outputs, or None for a model that is not a graph. Such a model has one input
            value and one output value, each of them a structure.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        standardize: Callable[[Any], list[Any]],
        structure: Any,
    ) -> None:
        self.stages = tuple(stages)
        self.inputs = inputs
        self._outputs = outputs
        self._standardize = standardize
        self._structure = structure

    def feed(self, x: Any) -> dict[int, Value]:
        """Return the model's inputs by number."""
        return dict(zip(self.inputs, map(Value, self._standardize(x)), strict=True))

    def fetch(self, values: Mapping[int, Value]) -> Any:
        """Return the model's outputs in their structure, copied to the current device, with masks and logits."""
        outputs = [values[number].attached() for number in self._outputs]
        if self._structure is None:
            return outputs[0]
        # Keras returns the tensor itself from a functional model with a list of one output.
        packed = keras.tree.pack_sequence_as(self._structure, outputs)
        single = isinstance(packed, list | tuple) and len(packed) == 1
        return packed[0] if single else packed

    def by_number(self, outputs: Any, leaves: list[Any]) -> dict[int, list[Any]]:
        """Assign leaves to the numbers of their values.

        Args:
            outputs: The model's outputs.
            leaves: One for each leaf of the outputs, such as its gradient, or None.
        """
        if self._structure is None:
            return {self._outputs[0]: leaves}
        # A model may return one tensor twice. Its gradients then add up.
        result: dict[int, list[Any]] = {}
        for number, leaf in zip(self._outputs, leaves, strict=True):
            if number in result and leaf is not None:
                old = result[number][0]
                leaf = leaf if old is None else old + leaf
            if leaf is not None or number not in result:
                result[number] = [leaf]
        return result


def one_stage(model: keras.Model) -> Pipeline:
    """Return the pipeline of one stage that calls the whole model.

    Args:
        model: The built model.
    """
    stage = Stage(Whole(model), (0,), (1,), frozen=not model.trainable)
    return Pipeline([stage], (0,), (1,), lambda x: [x], None)


def cut_into_stages(model: keras.Model, graph: Graph, groups: Sequence[Sequence[int]]) -> Pipeline:
    """Cut an opened graph into stages.

    Args:
        model: The built model.
        graph: Its graph.
        groups: `[s]`: the indices of a stage's calls. No stage may read a value that a later stage writes.

    Returns:
        The pipeline. A value goes directly from the stage that writes it to every stage that reads it.

    Raises:
        PlanError: A layer with state is called in two stages.
    """
    stages: list[Stage] = []
    owner: dict[int, int] = {}  # By the id of a variable: the first stage that uses it.
    for index, group in enumerate(groups):
        calls = [graph.calls[unit] for unit in group]
        inside = set(group)
        written = {number for call in calls for number in call.writes}
        reads = tuple(dict.fromkeys(n for call in calls for _, n in call.reads if n not in written))
        # A stage writes those of its values that any other stage, or the model's caller, needs.
        outside = {n for unit, call in enumerate(graph.calls) if unit not in inside for _, n in call.reads}
        outside |= set(graph.outputs)
        writes = tuple(number for call in calls for number in call.writes if number in outside)
        # The first stage that uses a weight owns it: there its gradients are summed, and its penalty is counted.
        borrowed = frozenset(key for key, at in owner.items() if at != index)
        stage = Stage(Segment(calls, reads, writes), reads, writes, borrowed, not model.trainable)
        _check_state(stage, owner, index)
        for variable in [*stage.weights, *stage.state.variables]:
            owner.setdefault(id(variable), index)
        stages.append(stage)
    return Pipeline(stages, graph.inputs, graph.outputs, _standardizing(model), graph.structure)


def _standardizing(model: keras.Model) -> Callable[[Any], list[Any]]:
    """Return the function that matches a model's inputs by name, and gives them rank and dtype, as Keras's call does.

    The graph of a model is carried out without Keras's call. That of another model, which returns its inputs, does it.
    """
    functional = inner_functional(model)
    identity = keras.Model(functional.input, functional.inputs, name=model.name)

    def standardize(x: Any) -> list[Any]:
        inputs = identity.call(x)
        return [inputs] if len(identity.inputs) == 1 else list(inputs)

    return standardize


def _check_state(stage: Stage, owner: dict[int, int], index: int) -> None:
    """Refuse a stage that changes a state variable of an earlier stage."""
    # Each stage reads its state once, before the batch: the later one would start from the old value.
    for variable, rule in zip(stage.state.variables, stage.state.known, strict=True):
        if rule is not None and owner.get(id(variable), index) != index:
            raise called_in_two_stages(variable, owner[id(variable)], index)


def called_in_two_stages(variable: keras.Variable, one: int, other: int) -> PlanError:
    """Return the error for a variable that one stage's call changes while another stage would read its old value."""
    return PlanError(
        f"Expected a layer with state to be called in one stage, received {variable.path!r} in stages "
        f"{one} and {other}. Move the cut so that all calls of this layer lie on one side."
    )
