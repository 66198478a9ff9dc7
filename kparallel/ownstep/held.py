"""The optimizers, metrics and variables that a step or loop of the user's own may use."""

from typing import Any

import keras

from kparallel.compat.layers import flatten_layers, seed_states
from kparallel.compat.variables import placed_value
from kparallel.engine.optimizer_update import OptimizerUpdate
from kparallel.engine.update_function import UpdateFunction
from kparallel.model_variables import metrics_of, optimizers_of, variables_of
from kparallel.stage.stage import averaged_states

__all__: list[str] = []


class Held:
    """What a model holds, and what else a step is found to use.

    Args:
        model: The model, all of whose variables are placed.
        draws: What Keras's random functions draw from that are given no seed; None leaves them alone.
        jit: As `OptimizerUpdate` takes it.
    """

    def __init__(self, model: keras.Model, draws: keras.random.SeedGenerator | None, jit: bool | None) -> None:
        drawn = [] if draws is None else [draws.state]
        self._jit = jit
        self.optimizers: list[Any] = []
        # By the id of an optimizer: its update, and that as a function that replicas and sizes share.
        self.updates: dict[int, OptimizerUpdate] = {}
        self.functions: dict[int, UpdateFunction] = {}
        self.metrics = metrics_of(model)
        self.variables = [v for v in [*variables_of(model), *drawn] if placed_value(v) is not None]
        self.seeds = seed_states(model) | {id(variable) for variable in drawn}
        self.moments = averaged_states(flatten_layers(model))
        self.add(optimizers_of(model), [], [])

    def add(self, optimizers: list[Any], metrics: list[keras.metrics.Metric], variables: list[keras.Variable]) -> None:
        """Let the step use some more optimizers and metrics, and write some more variables, those that are placed."""
        self.optimizers += [each for each in optimizers if id(each) not in self.updates]
        new_ones = [each for each in self.optimizers if id(each) not in self.updates]
        self.updates |= {id(each): OptimizerUpdate(each, self._jit) for each in new_ones}
        self.functions |= {id(each): UpdateFunction(each) for each in new_ones}
        self.metrics += [each for each in metrics if not any(each is known for known in self.metrics)]
        # By identity, as `==` between Keras variables compares values.
        known = set(map(id, self.variables))
        more = [*variables, *(variable for optimizer in optimizers for variable in optimizer.variables)]
        new = {id(v): v for v in more if id(v) not in known and placed_value(v) is not None}
        self.variables += new.values()
