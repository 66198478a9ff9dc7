"""A `train_step`, `test_step` or `predict_step` of the user's own, run unmodified on each replica's share of rows."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.distribute import local_updates
from kparallel.compat.functions import draw_apart, of_any_rows, tell_rows, traced
from kparallel.compat.layers import flatten_layers
from kparallel.compat.steps import (
    drawing_from,
    redirected,
    running,
    running_step,
    through_steps,
)
from kparallel.compat.variables import copies_of, has_single_copy, placed_value
from kparallel.data.share import RowCounts, row_count, slice_share, split_sizes
from kparallel.engine.placement import Placement
from kparallel.engine.replica import Replica
from kparallel.engine.sharded_update import ShardedUpdate
from kparallel.engine.workers_update import WorkersUpdate
from kparallel.errors import ModelError
from kparallel.ownstep.brought import BroughtWeights
from kparallel.ownstep.decisions import Decisions
from kparallel.ownstep.held import Held
from kparallel.ownstep.notes import Notes
from kparallel.ownstep.portion import Portion
from kparallel.ownstep.replica import ReplicaRun
from kparallel.ownstep.rows import StepRows
from kparallel.ownstep.traced import Traced
from kparallel.ownstep.user_code import line_of
from kparallel.ownstep.written import Written
from kparallel.stage.pipeline import one_stage
from kparallel.stage.state import seed_shift

__all__: list[str] = []


class OwnStep:
    """The user's own step over the replicas.

    Args:
        model: The wrapped model, all of whose variables are placed.
        step: Its method.
        placement: Where replicas run.
        loss_reduction: What the user's losses are of their rows: `"sum"`, or else means.
        jit: As `OptimizerUpdate` takes it.
        draws: What Keras's random functions draw from that are given no seed, with a copy on each replica; None leaves
            them alone.
        owners: By the id of a weight, the replica that updates it; default each replica updates its own copies.
    """

    def __init__(
        self,
        model: keras.Model,
        step: Callable[[Any], Any],
        placement: Placement,
        loss_reduction: str,
        jit: bool | None,
        draws: keras.random.SeedGenerator | None = None,
        owners: Mapping[int, int] | None = None,
        brought: BroughtWeights | None = None,
    ) -> None:
        self._model = model
        self._step = step
        self._placement = placement
        self.sums = loss_reduction == "sum"  # Whether losses are sums over rows.
        self._draws = draws
        self._owners = owners
        self._over_workers: dict[int, WorkersUpdate] = {}  # By the id of an optimizer.
        self.sized = False  # Whether the step has to be traced with the number of rows.
        self.draw: str | None = None  # Where the step first draws what a comparison cannot hold equal.
        self._drawn: set[str] = set()  # The operations of its last graph by which replicas draw what can be held equal.
        self._equal: set[tuple[int, str, int]] = set()  # The tensors of that graph that are equal on all replicas.
        self.sizes: set[int] = set()  # Numbers of rows that are written into it.
        self.choice: str | None = None  # Where it first chooses by a number of a replica's rows.
        self.assigned: set[int] = set()  # Ids of the variables that it writes.
        self.trial: Notes | None = None  # What a run that is compared with another one does otherwise.
        self._like = RowCounts(0)
        self.structure: Any = None  # Of what the step returns.
        self._held = Held(model, draws, jit)
        # What else a loop updates with has a slot on each replica.
        self._shared_out = set() if owners is None else set(map(id, self._held.optimizers))
        self._brought = brought or BroughtWeights(self._held.variables, owners or {}, placement)
        self._pad = not any(getattr(layer, "synchronized", False) for layer in flatten_layers(model))
        self._known: dict[RowCounts, dict[int, Decisions]] = {}

    def run(self, strategy: tf.distribute.Strategy, data: Any, counts: RowCounts, like: RowCounts | None = None) -> Any:
        """Run the step on a batch and return what it gives of the whole batch: one structure of tensors.

        Args:
            strategy: Runs the replicas.
            data: The batch.
            counts: Its rows.
            like: The rows of a batch with which the step has been traced, to run eagerly as that; default `counts`.
        """
        self._like = counts if like is None else like
        if tf.executing_eagerly() and self._like not in self._known:
            self.find_out(strategy, data, counts)
        with self._observed(strategy):
            leaves = strategy.run(partial(self._replica, counts=counts), args=(data,))
        first = iter([strategy.experimental_local_results(leaf)[0] for leaf in leaves])
        return keras.tree.map_structure(lambda leaf: None if leaf is None else next(first), self.structure)

    def find_out(self, strategy: tf.distribute.Strategy, data: Any, counts: RowCounts) -> None:
        """Trace the step without running it: a step that runs eagerly has no graph that tells what it does."""
        self._known[counts] = {}

        def once(data: Any) -> Any:
            with self._observed(strategy):
                return strategy.run(partial(self._replica, counts=counts), args=(data,))

        try:
            traced(once).get_concrete_function(data)
        except BaseException:
            del self._known[counts]
            raise

    @property
    def variables(self) -> list[keras.Variable]:
        """What the step may write."""
        return self._held.variables

    @property
    def optimizers(self) -> list[Any]:
        """What the step may update with."""
        return self._held.optimizers

    @property
    def replicas(self) -> int:
        """How many replicas run the step."""
        return self._placement.replicas

    @property
    def compression(self) -> str | None:
        """In which dtype gradients travel; None keeps their own."""
        return self._placement.compression

    @property
    def draws(self) -> int:
        """How often a replica draws by TensorFlow's own random operations what can be held equal."""
        return len(self._drawn) // len(self._placement.rows)

    def drawing(self) -> AbstractContextManager[None]:
        """Return a context in which Keras's random functions that are given no seed draw as in the step."""
        return nullcontext() if self._draws is None else drawing_from(self._draws)

    @contextmanager
    def _observed(self, strategy: tf.distribute.Strategy) -> Iterator[None]:
        """Let the running step see what leaves tapes, reaches optimizers and is read of metrics, and have all weights.

        Args:
            strategy: Runs the replicas.
        """
        if not tf.executing_eagerly():
            self._drawn, self._equal = set(), set()
        with ExitStack() as stack:
            stack.enter_context(through_steps())
            for owners, name, take in (
                (self._held.optimizers, "apply", "apply"),
                (self._held.metrics, "update_state", "update_metric"),
                (self._held.metrics, "result", "read_metric"),
                (self._held.metrics, "reset_state", "reset_metric"),
            ):
                stack.enter_context(redirected(owners, name, partial(_through, take)))
            stack.enter_context(redirected([] if self._draws is None else [self._draws], "next", self._apart))
            stack.enter_context(self._brought.in_place())
            self._brought.bring(strategy)
            yield
            self._brought.drop(strategy)

    def _replica(self, data: Any, counts: RowCounts) -> list[tf.Tensor]:
        """Run the step of one replica and return the leaves of what it gives."""
        placement = self._placement
        communicator = placement.communicators[-1]
        index = communicator.replica_index
        local = index - placement.first_replica
        data, rows, first = slice_share(data, counts, local, index, placement.replicas, pad=self._pad)
        if self.trial is not None:
            self.trial.place(first or 0, rows)
        if not tf.executing_eagerly() and not local and placement.first_replica:
            draw_apart(tf.compat.v1.get_default_graph(), placement.first_replica)
        # Plain Keras's steps do not know the number of rows either, and write no number into the graph.
        free = not tf.executing_eagerly() and not self.sized
        if free:
            data = keras.tree.map_structure(lambda leaf: of_any_rows(leaf) if _has_rows(leaf) else leaf, data)
        replica = self._made(data, self._share(rows, counts, index), counts, index)
        self._shift_seeds(index, 1)
        with running(replica), self.drawing():
            try:
                result = self._step(data)
            except Exception as error:
                # Autograph and Keras wrap what is raised inside a step. The refusal itself says more.
                if replica.refusals and error is not replica.refusals[0]:
                    raise replica.refusals[0] from error
                raise
            self.structure = {} if result is None else result
            leaves = replica.results([leaf for leaf in keras.tree.flatten(self.structure) if leaf is not None])
        self._shift_seeds(index, -1)
        for leaf in filter(_has_rows, keras.tree.flatten(data) if free else []):
            tell_rows(leaf)
        if replica.written is not None:
            found = replica.written
            self.sizes |= found.sizes
            self.draw, self.choice = found.draw or self.draw, found.choice or self.choice
            self._drawn |= found.draws
            self.assigned |= found.assigned
        return leaves

    def _made(self, data: Any, share: Portion, counts: RowCounts, index: int) -> ReplicaRun:
        if tf.executing_eagerly():
            traced, decisions = None, Decisions(self._known[self._like][index])
        else:
            size = row_count(data) if self.sized else None
            traced, decisions = self._followed(data, index, size), Decisions()
            self._known.setdefault(counts, {})[index] = decisions
        return ReplicaRun(
            self._placement,
            share,
            self._held.variables,
            self._held.moments,
            traced,
            decisions,
            self._update,
            self._owners is not None,
        )

    def _followed(self, data: Any, index: int, size: int | None) -> Traced:
        """Return what follows a replica through the graph that it is about to make."""
        graph = tf.compat.v1.get_default_graph()
        leaves = tf.nest.flatten(data, expand_composites=True)
        rows = StepRows(graph, [leaf for leaf in leaves if tf.is_tensor(leaf)], self._equal)
        local = index - self._placement.first_replica
        # Of variables with a single copy only optimizers write, whose writes are not followed.
        followed = [variable for variable in self._held.variables if not has_single_copy(variable)]
        copies = {id(copies_of(variable)[local].handle): variable for variable in followed}
        metrics = {id(variable) for metric in self._held.metrics for variable in metric.variables}
        written = Written(graph, rows, copies, self._held.seeds, metrics, self._placement.replicas, self.sums)
        return Traced(rows, written, size, self.sums)

    def _share(self, rows: int, counts: RowCounts, index: int) -> Portion:
        """Return what a replica has of a batch."""
        if isinstance(counts.rows, int):
            whole = float(counts.rows)
            filled = float(sum(size > 0 for size in split_sizes(counts.rows, self._placement.replicas)))
        elif self._placement.group.is_single:
            whole, filled = float(sum(counts.rows)), float(sum(size > 0 for size in counts.rows))
        else:
            own = tf.constant([float(rows), float(rows > 0)], tf.float64)
            whole, filled = tf.unstack(self._placement.communicators[-1].all_reduce([own])[0])
        # In a cluster whose data came divided these are tensors: only the sum over the workers knows the whole.
        part, single = rows / whole, float(rows > 0) / filled
        return Portion(rows, part, single, self.sums)

    def _update(self, optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
        if id(optimizer) not in self._held.updates:
            raise ModelError(
                "Expected an optimizer that the model holds, by compile or as an attribute, received an update by "
                f"another {type(optimizer).__name__}{line_of()}, whose variables have no copy on each replica. Make it "
                "an attribute of the model before fit."
            )
        # One replica's notes are enough, since the gradients are equal on all of them by now.
        self.assigned.update(map(id, variables))
        trial = self.trial if self._placement.communicators[-1].replica_index == self._placement.first_replica else None
        if trial is not None:
            trial.note(optimizer, gradients, variables)
        self._apply(optimizer, gradients, variables)
        if trial is not None:
            trial.updated(variables)

    def _apply(self, optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
        update = self._held.updates[id(optimizer)]
        placement = self._placement
        owners = self._owners if id(optimizer) in self._shared_out else None
        if owners is not None and placement.group.is_single:
            ShardedUpdate(update, owners).apply(gradients, variables)
            return
        if owners is not None:
            # A step may name a weight by its `tf.Variable`.
            named = {id(placed_value(variable)): variable for variable in self._held.variables}
            weights = [named.get(id(variable), variable) for variable in variables]
            if id(optimizer) not in self._over_workers:
                shard = self._brought.shard
                self._over_workers[id(optimizer)] = WorkersUpdate(update, optimizer, owners, placement, shard)
            replica = Replica.present(one_stage(self._model), placement, 1)
            self._over_workers[id(optimizer)].apply(gradients, weights, replica)
            return
        row = placement.rows[placement.communicators[-1].replica_index - placement.first_replica]
        with local_updates(tf.distribute.get_strategy()):
            whole = len(set(row)) == 1 and not tf.executing_eagerly() and not update.compiles(gradients, variables)
            function = self._held.functions[id(optimizer)]
            if not whole or not function.apply(update.apply_whole, gradients, variables, row[0]):
                update.apply(gradients, variables)

    def _shift_seeds(self, index: int, sign: int) -> None:
        """Let replicas draw apart from the model's seeds while the step runs; what is kept is plain Keras's own."""
        if not index or self.trial is not None:
            return
        shared = None if self._draws is None else self._draws.state  # Its draws are told apart one by one.
        for variable in self._held.variables:
            if id(variable) in self._held.seeds and variable is not shared:
                shift = tf.cast(seed_shift(index), variable.value.dtype)
                variable.assign(variable.value + shift if sign > 0 else variable.value - shift)

    def _apart(self, _: Any, draw: Callable[..., Any]) -> Callable[..., Any]:
        """Return what gives each replica a seed of its own in the place of the one that all have."""

        def drawn(*args: Any, **kwargs: Any) -> Any:
            seed = draw(*args, **kwargs)
            index = 0 if running_step() is None else self._placement.communicators[-1].replica_index
            return seed if not index or self.trial is not None else seed + tf.cast(seed_shift(index), seed.dtype)

        return drawn


def _through(take: str, owner: Any, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that goes through the running step, if one runs."""

    def call(*args: Any, **kwargs: Any) -> Any:
        step = running_step()
        return method(*args, **kwargs) if step is None else getattr(step, take)(owner, method, *args, **kwargs)

    return call


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, tf.Tensor) and bool(leaf.shape.rank)
