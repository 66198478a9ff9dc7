"""What a wrapped model carries beside its Keras self; no Keras object, so that files stay plain."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any

import keras
import tensorflow as tf

from kparallel.comm.failures import translate_worker_loss
from kparallel.compat.steps import CountingGenerator, default_generator
from kparallel.compat.variables import place_variable
from kparallel.data.batches import Batches
from kparallel.engine.placement import Placement
from kparallel.errors import PlanError
from kparallel.ownstep.loop import LoopStrategy
from kparallel.planning.plan import Plan
from kparallel.resume.epoch import EpochState
from kparallel.stage.graph import open_graph
from kparallel.stage.pipeline import Pipeline, cut_into_stages, one_stage
from kparallel.workers.variables import VariablesOfWorkers

__all__: list[str] = []


class Runtime:
    """The plan and what carries it out.

    Args:
        plan: The decision.
        strategy: The strategy that holds the variables.
        placement: Where replicas run.
        loss_reduction: What a loss means that returns a scalar.
        check: What to do about a step of the user's own that does not do the same on one device.
    """

    def __init__(
        self,
        plan: Plan,
        strategy: tf.distribute.Strategy,
        placement: Placement,
        loss_reduction: str,
        check: str = "error",
    ) -> None:
        self.plan = plan
        self.strategy = strategy
        self.placement = placement
        self.loss_reduction = loss_reduction
        self.check = check
        self.feeding = False
        self.shard_is_free = False  # Whether `compile` may decide anew what the replicas share out.
        self.shared_out: VariablesOfWorkers | None = None
        if plan.shard is not None and not placement.group.is_single:
            self.shared_out = VariablesOfWorkers(placement.group, len(placement.rows), plan.shard)
        self.epoch = EpochState()
        # Weakly: a long `fit` may evaluate in each epoch, and what it evaluates on goes with the call.
        self.reading: weakref.WeakSet[Batches] = weakref.WeakSet()
        self.jit: bool | None = None
        self.loop: LoopStrategy | None = None
        self._draws: keras.random.SeedGenerator | None = None
        self.moves = 0  # How often variables have moved; a function traced before a move is traced anew.
        # What each layer's call was replaced by, and what the layer itself had in its place, which its class may have.
        self._redirected: dict[keras.layers.Layer, tuple[Callable[..., Any], Callable[..., Any] | None]] = {}

    def draws(self) -> keras.random.SeedGenerator:
        """Return what Keras's random functions draw from that are given no seed: one, with a copy on each replica.

        In a cluster all workers make the first call together, unless `resume_draws` came before.
        """
        if self._draws is None:
            # One more than the default's state: the numbers repeat with the user's seed, and are not those that the
            # default draws.
            with tf.init_scope():  # A loop of one's own makes the call while it is traced.
                default = int(default_generator().state.numpy()[0])
            self._draws = self._make_draws(default + 1)
        return self._draws

    def resume_draws(self, state: Any) -> None:
        """Let what `draws` returns go on from a state that all workers know; a worker may call it alone."""
        if self._draws is None:
            self._draws = self._make_draws(0, state)
        else:
            self._draws.state.assign(state)

    def _make_draws(self, seed: int, state: Any = None) -> keras.random.SeedGenerator:
        with tf.init_scope():
            made = CountingGenerator(seed)
            if state is not None:
                made.state.assign(state)
            place_variable(made.state, self.strategy, self.column(0), is_equal=state is not None)
        return made

    @property
    def draws_if_made(self) -> keras.random.SeedGenerator | None:
        """What `draws` returns, or None while nothing has asked for it."""
        return self._draws

    @property
    def writes(self) -> bool:
        """Whether this process writes files."""
        return self.placement.group.is_chief

    def column(self, stage_index: int) -> tuple[str, ...]:
        """Return the devices of this process on which a stage's variables have their copies, in replica order."""
        return tuple(row[stage_index] for row in self.placement.rows)

    def replicas_of(self, stage_index: int) -> tuple[str, ...]:
        """Return a name for each device that has a copy of a stage's variables, in the order of all replicas.

        Workers may name their own devices differently. So over several workers a device has the name that all of them
        can give it: the replica, and its lane.
        """
        if self.placement.group.is_single:
            return self.column(stage_index)
        lane = self.plan.lanes[stage_index]
        return tuple(f"replica {replica}, lane {lane}" for replica in range(self.placement.replicas))

    @property
    def host(self) -> str:
        """The CPU of this process."""
        return self.placement.rows[0][0].rpartition("/device:")[0] + "/device:CPU:0"

    @contextmanager
    def whole_batches(self) -> Iterator[None]:
        """Let Keras's loops read whole batches, which the step divides. Iterators over data end with the outermost."""
        # `fit` calls `evaluate` for its validation, inside of its own context.
        before, self.feeding = self.feeding, True
        if not before:
            self.epoch.digest.begin()
        try:
            with translate_worker_loss():
                yield
        finally:
            self.feeding = before
            if not before:
                for batches in list(self.reading):
                    batches.close()

    def pipeline(self, model: keras.Model) -> Pipeline:
        """Cut a built model into the plan's stages, as its layers stand now."""
        # Cut anew at each call: a layer may have been unfrozen, or got other weights, since the last trace.
        groups = [group.units for group in self.plan.groups]
        graph = open_graph(model) if len(groups) > 1 else None
        planned = sum(map(len, groups))
        if graph is not None and len(graph.calls) != planned:
            raise PlanError(
                f"Expected a model of the {planned} calls that the plan cuts, received {len(graph.calls)}: layers of "
                f"{model.name!r} were added or removed since it was wrapped. Wrap it again."
            )
        return one_stage(model) if graph is None else cut_into_stages(model, graph, groups)

    def stages_of(self, model: keras.Model) -> dict[int, int]:
        """Return, by the id of a built model's variable, the stage on whose column it lies; the last one if none."""
        found: dict[int, int] = {}
        if self.plan.placed:
            for index, group in enumerate(self.plan.groups):
                for layer in model.layers:
                    if layer.name in group.layers:
                        found |= {id(variable): index for variable in layer.variables if id(variable) not in found}
            return found
        for index, stage in enumerate(self.pipeline(model).stages):
            for variable in [*stage.weights, *stage.state.variables]:
                # A tied weight lies with the first stage that uses it.
                found.setdefault(id(variable), index)
        return found

    def redirect_calls(self, model: keras.Model) -> None:
        """Let each layer that has a device of its own run there; there is one row where layers have devices."""
        if not model.built or not self.plan.placed:
            return
        for index, group in enumerate(self.plan.groups):
            for layer in model.layers:
                if layer.name in group.layers and layer not in self._redirected:
                    placed, own = self._at_stage(layer, index), vars(layer).get("call")
                    layer.call = placed
                    self._redirected[layer] = placed, own

    def restore_calls(self) -> None:
        """Let layers run where their caller runs, or where another model's plan lets them run."""
        for layer, (placed, own) in self._redirected.items():
            if vars(layer).get("call") is not placed:
                continue  # Another model that shares the layer has redirected it as well.
            if own is None:
                del layer.call
            else:
                layer.call = own
        self._redirected.clear()

    def _at_stage(self, layer: keras.layers.Layer, stage_index: int) -> Callable[..., Any]:
        """Run a layer's call on its stage's device, as long as this plan redirects it."""
        call = layer.call

        @wraps(call)
        def placed(*args: Any, **kwargs: Any) -> Any:
            device = self.placement.rows[0][stage_index] if layer in self._redirected else None
            with nullcontext() if device is None else tf.device(device):
                return call(*args, **kwargs)

        return placed
