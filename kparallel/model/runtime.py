"""What a wrapped model carries beside its Keras self; no Keras object, so that files stay plain."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import keras
import tensorflow as tf

from kparallel.collective.lost import naming_lost_workers
from kparallel.engine.layout import Layout
from kparallel.errors import PlanError
from kparallel.model.in_step import Read
from kparallel.planning.plan import Plan
from kparallel.private import is_placed, move_variable, on_column
from kparallel.stage.graph import open_graph
from kparallel.stage.pipeline import Pipeline, cut, whole

__all__: list[str] = []


class Runtime:
    """The plan and what carries it out.

    Args:
        plan: The decision.
        strategy: The strategy that holds the variables.
        layout: Where replicas run.
        loss_reduction: What a loss means that returns a scalar.
        builder: The function that built the model, if one did.
    """

    def __init__(
        self,
        plan: Plan,
        strategy: tf.distribute.Strategy,
        layout: Layout,
        loss_reduction: str,
        builder: Callable[[], Any] | None,
    ) -> None:
        self.plan = plan
        self.strategy = strategy
        self.layout = layout
        self.loss_reduction = loss_reduction
        self.builder = builder
        self.feeding = False
        self.unsized = False
        self.read = Read()
        self.jit: bool | None = None

    @property
    def writes(self) -> bool:
        """Whether this process writes files."""
        return self.layout.talk is None or self.layout.talk.is_chief

    @contextmanager
    def scope(self, stage_index: int = -1) -> Iterator[None]:
        """Create variables as one local copy on each device of a column; metrics live with the last stage."""
        column = [row[stage_index] for row in self.layout.rows]
        with self.strategy.scope(), on_column(column):
            yield

    @contextmanager
    def whole_batches(self) -> Iterator[None]:
        """Let Keras's loops read whole batches, which the step divides."""
        before, self.feeding = self.feeding, True
        if not before:
            self.read.begin()
        try:
            with naming_lost_workers():
                yield
        finally:
            self.feeding = before

    def pipeline(self, model: keras.Model) -> Pipeline:
        """Cut a built model into the plan's stages, as its layers stand now."""
        groups = [group.units for group in self.plan.groups]
        graph = open_graph(model) if len(groups) > 1 else None
        planned = sum(map(len, groups))
        if graph is not None and len(graph.calls) != planned:
            raise PlanError(
                f"Expected a model of the {planned} calls that the plan cuts, received {len(graph.calls)}: layers of "
                f"{model.name!r} were added or removed since it was wrapped. Change the plain model, and wrap that."
            )
        return whole(model, placed=len(groups) > 1) if graph is None else cut(model, graph, groups)

    def place(self, model: keras.Model) -> None:
        """Move every variable of a built model to its stage's column."""
        placed: set[int] = set()
        pipeline = self.pipeline(model)
        if pipeline.placed:
            for index, group in enumerate(self.plan.groups):
                for layer in model.layers:
                    if layer.name in group.layers:
                        self._move(layer.variables, index, placed)
                        layer.call = self._at_stage(layer.call, index)
        else:
            for index, stage in enumerate(pipeline.stages):
                self._move([*stage.weights, *stage.state.variables], index, placed)
        self._move(model.variables, -1, placed)

    def place_new(self, model: keras.Model) -> None:
        """Move the variables that a built model's layers made since, as `enable_lora` does."""
        if not all(map(is_placed, model.variables)):
            self.place(model)

    def _at_stage(self, call: Callable[..., Any], stage_index: int) -> Callable[..., Any]:
        """Run a layer's call on its stage's device; there is one row where layers are placed one by one."""

        @wraps(call)
        def placed(*args: Any, **kwargs: Any) -> Any:
            with tf.device(self.layout.rows[0][stage_index]):
                return call(*args, **kwargs)

        return placed

    def _move(self, variables: list[keras.Variable], stage_index: int, placed: set[int]) -> None:
        with self.scope(stage_index):
            for variable in variables:
                if id(variable) not in placed:
                    move_variable(variable)
                    placed.add(id(variable))
