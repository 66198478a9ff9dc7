"""A model as a row of stages: which values each stage reads and writes, and what goes in and comes out."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from kparallel.compat.graph import standardized_inputs
from kparallel.errors import PlanError
from kparallel.stage.body import Segment, Whole
from kparallel.stage.graph import Graph
from kparallel.stage.stage import Stage
from kparallel.stage.value import Value

__all__: list[str] = []


class Pipeline:
    """The stages of a model.

    Args:
        model: The built model.
        stages: In order.
        inputs: Numbers of the model's inputs.
        outputs: Numbers of the model's outputs.
        structure: The structure of the outputs, or None where the only value is a structure itself.
        placed: Whether layers inside a stage have devices of their own.
    """

    def __init__(
        self,
        model: keras.Model,
        stages: Sequence[Stage],
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        structure: Any,
        placed: bool = False,
    ) -> None:
        self._model = model
        self.stages = tuple(stages)
        self.inputs = inputs
        self._outputs = outputs
        self._structure = structure
        self.placed = placed

    def feed(self, x: Any) -> dict[int, Value]:
        """Return the model's inputs by number."""
        if self._structure is None:
            return {self.inputs[0]: Value(x)}
        return dict(zip(self.inputs, map(Value, standardized_inputs(self._model, x)), strict=True))

    def fetch(self, values: Mapping[int, Value]) -> Any:
        """Return the model's outputs as it returns them, copied to the present device, with masks and logits."""
        outputs = [values[number].attached() for number in self._outputs]
        if self._structure is None:
            return outputs[0]
        packed = keras.tree.pack_sequence_as(self._structure, outputs)
        single = isinstance(packed, list | tuple) and len(packed) == 1
        return packed[0] if single else packed

    def by_number(self, outputs: Any, leaves: list[Any]) -> dict[int, list[Any]]:
        """Assign flat leaves, one for each of the outputs' leaves, to the numbers of the values."""
        if self._structure is None:
            return {self._outputs[0]: leaves}
        result: dict[int, list[Any]] = {}
        for number, leaf in zip(self._outputs, leaves, strict=True):
            if number in result and leaf is not None:
                old = result[number][0]
                leaf = leaf if old is None else old + leaf
            if leaf is not None or number not in result:
                result[number] = [leaf]
        return result


def whole(model: keras.Model, placed: bool = False) -> Pipeline:
    """Return the pipeline of one stage that calls a model as its class says.

    Args:
        model: The built model.
        placed: Whether its layers have devices of their own.
    """
    return Pipeline(model, [Stage(Whole(model), (0,), (1,), frozen=not model.trainable)], (0,), (1,), None, placed)


def cut(model: keras.Model, graph: Graph, groups: Sequence[Sequence[int]]) -> Pipeline:
    """Cut an opened graph into stages.

    Args:
        model: The built model.
        graph: Its graph.
        groups: Each stage's calls, by index; no stage reads what a later one writes.

    Returns:
        The pipeline. A value goes straight from the stage that writes it to every stage that reads it.

    Raises:
        PlanError: A layer with state of its own is called in two stages.
    """
    stages: list[Stage] = []
    owner: dict[int, int] = {}
    for index, group in enumerate(groups):
        calls = [graph.calls[unit] for unit in group]
        inside = set(group)
        written = {number for call in calls for number in call.writes}
        reads = tuple(dict.fromkeys(n for call in calls for _, n in call.reads if n not in written))
        outside = {n for unit, call in enumerate(graph.calls) if unit not in inside for _, n in call.reads}
        outside |= set(graph.outputs)
        writes = tuple(number for call in calls for number in call.writes if number in outside)
        borrowed = frozenset(key for key, at in owner.items() if at != index)
        stage = Stage(Segment(calls, reads, writes), reads, writes, borrowed, not model.trainable)
        _check_state(stage, owner, index)
        for variable in [*stage.weights, *stage.state.variables]:
            owner.setdefault(id(variable), index)
        stages.append(stage)
    return Pipeline(model, stages, graph.inputs, graph.outputs, graph.structure)


def _check_state(stage: Stage, owner: dict[int, int], index: int) -> None:
    for variable, rule in zip(stage.state.variables, stage.state.known, strict=True):
        if rule is not None and owner.get(id(variable), index) != index:
            raise called_in_two_stages(variable, owner[id(variable)], index)


def called_in_two_stages(variable: keras.Variable, one: int, other: int) -> PlanError:
    """Return the error about a variable that changes in a call, of which another stage would see the old value."""
    return PlanError(
        f"Expected a layer with state to be called in one stage, received {variable.path!r} in stages "
        f"{one} and {other}. Move the cut so that all calls of this layer lie on one side."
    )
