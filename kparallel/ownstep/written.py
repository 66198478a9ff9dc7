"""What a step of the user's own writes to variables, found in its graph, and how the replicas' values become one.

```text
replica 0   total ── +2 (sum of its rows) ──┐
replica 1   total ── +3                   ──┴─► total + 5 on both
replica 0   mean  ── 0.9 mean + 0.1 m0    ──┐
replica 1   mean  ── 0.9 mean + 0.1 m1    ──┴─► the ends' average, weighted by rows, on both
replica 0   ema   ── 0.9 ema + 0.1 weight ──┐
replica 1   ema   ── 0.9 ema + 0.1 weight ──┴─► equal already
```
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.draws import is_held
from kparallel.compat.functions import called_graphs
from kparallel.compat.variables import is_copy, is_left, resource_name
from kparallel.errors import ModelError
from kparallel.ownstep.choices import chooses
from kparallel.ownstep.rows import StepRows
from kparallel.ownstep.sizes import written_sizes
from kparallel.ownstep.user_code import line_of
from kparallel.stage.dependence import Dependence

__all__: list[str] = []

_WRITES = ("Assign", "ResourceScatter", "ResourceStridedSliceAssign", "ResourceApply", "ResourceSparseApply")
_DRAWS: tuple[str, ...] = ("Random", "TruncatedNormal", "ParameterizedTruncatedNormal", "Multinomial", "StatefulRandom")
_DRAWS += ("StatefulStandardNormal", "StatefulUniform", "StatefulTruncatedNormal")


@dataclass
class Change:
    """What has been written to one variable since the replicas last agreed on it.

    Args:
        mean: Whether some of it is neither equal on all replicas nor a sum over their rows.
        sums: What was added that is a sum over the rows.
        means: What was added that is a mean over the rows.
        replaced: Whether it was written anew, by what is not equal on all replicas.
    """

    mean: bool = False
    sums: list[tf.Tensor] = field(default_factory=list)
    means: list[tf.Tensor] = field(default_factory=list)
    replaced: bool = False

    @property
    def differs(self) -> bool:
        """Whether the replicas' values may differ."""
        return self.mean or bool(self.sums)


class Written:
    """Follows the writes of one replica in the graph of its step.

    Args:
        graph: The step's graph.
        rows: Tells how tensors depend on the rows.
        variables: The variables of the model, its optimizers and metrics, by the id of this replica's copy's handle.
        seeds: Ids of the variables that hold seeds: what is read of them differs between the replicas.
        metrics: Ids of the metrics' variables.
        replicas: How many there are.
        sums: Whether losses are sums over the rows. Default False, means.
    """

    def __init__(
        self,
        graph: Any,
        rows: StepRows,
        variables: Mapping[int, keras.Variable],
        seeds: set[int],
        metrics: set[int],
        replicas: int,
        sums: bool = False,
    ) -> None:
        self._sums = sums
        self._graph = graph
        self._rows = rows
        self._variables = variables
        self._seeds = seeds
        self._metrics = metrics
        self._replicas = replicas
        self._position = len(graph.get_operations())
        self._version = graph.version
        self._handles: dict[str, Any] = {}  # What each captured tensor of the graph stands for.
        self._reads: dict[int, Dependence] = {}  # What is now read of a variable that differs between the replicas.
        self.changes: dict[int, Change] = {}
        self.assigned: set[int] = set()  # Ids of all variables that are written, but for what is passed over.
        self.draw: str | None = None  # Where the step first draws what a comparison cannot hold equal.
        self.draws: set[str] = set()  # The operations by which it, or another replica, draws what can be held equal.
        self.sizes: set[int] = set()  # Numbers of rows that are written into it.
        self.choice: str | None = None  # Where it first chooses by a mean or another number of this replica's rows.

    def follow(self, additive: bool | None = None, counts: bool = False) -> None:
        """Take note of what has been traced since the last call.

        Args:
            additive: What of the rows it is where the graph does not tell: True a sum, False a mean, None unknown.
            counts: Whether what is added is a sum over the rows although it does not seem to depend on them, as a count
                of rows in a graph that knows their number.
        """
        if self._graph.version == self._version:
            return  # Listing the operations of a large graph takes a while.
        self._version = self._graph.version
        operations = self._graph.get_operations()
        new, self._position = operations[self._position :], len(operations)
        for operation in new:
            if operation.type == "ReadVariableOp":
                self._read(operation)
            elif operation.type.startswith(_WRITES) and operation.inputs:
                variable = self._variable(operation.inputs[0])
                if variable is not None:
                    self._write(operation, variable, additive, counts)
                else:
                    self._check_shared(operation)
            elif called_graphs(operation):
                self._called(operation)
            self._note_draw(operation)
            if additive is None:
                self._note_rows(operation, self._rows)

    def _note_draw(self, operation: tf.Operation) -> None:
        if is_held(operation):
            self.draws.add(operation.name)
            return
        inner = [each for graph in called_graphs(operation).values() for each in graph.get_operations()]
        if self.draw is None and any(each.type.startswith(_DRAWS) for each in [operation, *inner]):
            self.draw = line_of(operation.traceback)

    def _note_rows(self, operation: tf.Operation, rows: StepRows) -> None:
        """Take note of what an operation, or the function that it calls, does by a number of the rows."""
        self.sizes.update(written_sizes(operation, rows))
        if self.choice is None and chooses(operation, rows, self._sums):
            self.choice = line_of(operation.traceback) or None
        if operation.type not in ("PartitionedCall", "StatefulPartitionedCall"):
            return
        for graph in called_graphs(operation).values():
            inside = StepRows(graph, [])
            for given, argument in zip(operation.inputs, graph.inputs, strict=False):
                inside.set(argument, rows.of(given))
            for inner in graph.get_operations():
                self._note_rows(inner, inside)

    def skip(self) -> None:
        """Pass over what has been traced since the last call: it leaves the replicas' copies equal."""
        self._position = len(self._graph.get_operations())

    def settled(self) -> dict[int, Change]:
        """Return what the replicas have to agree on, by the id of the variable, and begin anew."""
        self._check_present()
        found = {key: change for key, change in self.changes.items() if change.differs}
        self.changes, self._reads = {}, {}
        return found

    def forget(self, variables: list[keras.Variable]) -> None:
        """Take what variables hold now as equal on all replicas."""
        for variable in variables:
            self.changes.pop(id(variable), None)
            self._reads.pop(id(variable), None)

    def _variable(self, handle: tf.Tensor) -> keras.Variable | None:
        """Return the variable of this replica that a handle belongs to, or None for any other."""
        return self._variables.get(id(self._outside(handle)))

    def _outside(self, handle: tf.Tensor) -> Any:
        if handle.name not in self._handles:
            # Looked up anew only for a name that is not known: captures are added as the graph grows.
            self._handles |= {inside.name: outside for outside, inside in self._graph.captures}
        return self._handles.get(handle.name)

    def _check_shared(self, operation: tf.Operation) -> None:
        """Make sure that a write is of a copy on another replica, or of what the step has made itself."""
        outside = self._outside(operation.inputs[0])
        if outside is not None and outside.dtype == tf.resource and self._replicas > 1 and not is_copy(outside):
            raise ModelError(
                "Expected a step to write variables of its model, and of the optimizers and metrics that the model "
                f"holds as attributes, received a write of {resource_name(outside)!r}{line_of(operation.traceback)}, "
                f"which none of them knows: each of the {self._replicas} replicas would write it. Make it with "
                "add_weight in the model, or make its optimizer or metric an attribute of the model."
            )

    def _check_present(self) -> None:
        """Make sure that the step reads no variable that was of the model before it was wrapped, and is no more."""
        old = next((outside for outside, _ in self._graph.captures if is_left(outside)), None)
        if old is not None:
            raise ModelError(
                "Expected a step to read weights by the layers that have them, received a read of "
                f"{resource_name(old)!r} by a TensorFlow variable that has the weight's value from before it moved to "
                "the devices of the plan. Take it from the layer in the step, as layer.kernel."
            )

    def _read(self, operation: tf.Operation) -> None:
        variable = self._variable(operation.inputs[0])
        if variable is None:
            return
        if id(variable) in self._seeds:
            self._rows.set(operation.outputs[0], Dependence.OTHER)
        elif id(variable) in self._reads:
            self._rows.set(operation.outputs[0], self._reads[id(variable)])

    def _write(self, operation: tf.Operation, variable: keras.Variable, additive: bool | None, counts: bool) -> None:
        if id(variable) in self._seeds:
            return
        self.assigned.add(id(variable))
        change = self.changes.setdefault(id(variable), Change())
        added = self._added(operation)
        # Of a value that is written anew all inputs count; of one to which something is added only what is added.
        dependence = _joined(
            [self._rows.of(each) for each in operation.inputs[1:]] if added is None else [self._rows.of(added)]
        )
        if dependence in (Dependence.OTHER, Dependence.ROWS) and additive is not None:
            dependence = Dependence.SUM if additive else Dependence.MEAN
        if dependence is Dependence.NONE and added is not None and counts:
            dependence = Dependence.SUM
        if dependence is Dependence.NONE and added is None:
            self.changes[id(variable)] = Change()  # Overwritten by what is equal on all replicas.
            self._reads.pop(id(variable), None)
        elif dependence is Dependence.SUM and added is not None:
            change.sums.append(added)
            # Until the replicas agree, each has its own sum in the variable.
            self._reads[id(variable)] = Dependence.OTHER
        elif dependence is not Dependence.NONE:
            if operation.type == "AssignVariableOp" and added is None:
                change = self.changes[id(variable)] = Change()  # What was added before is gone.
            change.mean, change.replaced = True, change.replaced or added is None
            change.means += [] if added is None else [added]
            linear = dependence is Dependence.MEAN and self._reads.get(id(variable), dependence) is Dependence.MEAN
            self._reads[id(variable)] = Dependence.MEAN if linear else Dependence.OTHER

    def _added(self, operation: tf.Operation) -> tf.Tensor | None:
        """Return what a write adds to a variable, None for any other write."""
        if operation.type in ("AssignAddVariableOp", "AssignSubVariableOp"):
            added = operation.inputs[1]
            return added if operation.type == "AssignAddVariableOp" else _negative(self._rows, added)
        if operation.type != "AssignVariableOp":
            return None
        value = operation.inputs[1]
        while value.op.type in ("Identity", "IdentityN"):
            value = value.op.inputs[value.value_index]
        # variable.assign(variable + x)     read ─► AddV2 ─► AssignVariableOp      x is what is added
        if value.op.type not in ("AddV2", "Add"):
            return None
        left, right = value.op.inputs
        for old, added in ((left, right), (right, left)):
            if self._reads_of(old, operation.inputs[0]):
                return added
        return None

    def _reads_of(self, tensor: tf.Tensor, handle: tf.Tensor) -> bool:
        while tensor.op.type == "Identity":
            tensor = tensor.op.inputs[0]
        return bool(tensor.op.type == "ReadVariableOp" and tensor.op.inputs[0].name == handle.name)

    def _called(self, operation: tf.Operation) -> None:
        """Take note of what the functions that an operation calls write."""
        variables = [self._variable(operation.inputs[index]) for index in _written_inputs(operation)]
        written = [each for each in variables if each is not None and id(each) not in self._seeds]
        if not written:
            return
        self.assigned.update(map(id, written))
        if operation.type.endswith("If") and self._rows.of(operation.inputs[0]) is not Dependence.NONE:
            raise ModelError(
                f"Expected a condition that is the same on all replicas around what writes {written[0].path!r}, "
                f"received one that depends on a replica's rows{line_of(operation.traceback)}. Compare what is equal "
                "on all of them, such as a counter, a gradient's norm or kparallel.all_reduce of a sum."
            )
        dependences = [self._rows.of(each) for each in operation.inputs if each.dtype != tf.resource]
        if _joined(dependences) is Dependence.NONE:
            return
        metric = next((variable for variable in written if id(variable) in self._metrics), None)
        if metric is not None:
            raise ModelError(
                f"Expected metrics to be updated in the step itself, received an update of {metric.path!r} inside a "
                f"tf.function, a condition or a loop{line_of(operation.traceback)}. Move it out."
            )
        for variable in written:
            change = self.changes.setdefault(id(variable), Change())
            change.mean = change.replaced = True
            self._reads[id(variable)] = Dependence.OTHER


def _negative(rows: StepRows, tensor: tf.Tensor) -> tf.Tensor:
    dependence, negative = rows.of(tensor), -tensor
    rows.set(negative, dependence)
    return negative


def _joined(dependences: list[Dependence]) -> Dependence:
    """Return how something depends on the rows that depends on several tensors."""
    found = {dependence for dependence in dependences if dependence is not Dependence.NONE}
    return Dependence.NONE if not found else found.pop() if len(found) == 1 else Dependence.OTHER


def _written_inputs(operation: tf.Operation) -> set[int]:
    """Return the indices of the inputs whose variables the called functions write."""
    found: set[int] = set()
    for attribute, graph in called_graphs(operation).items():
        places = {tensor.name: index + attribute.endswith("_branch") for index, tensor in enumerate(graph.inputs)}
        for inner in graph.get_operations():
            if inner.type.startswith(_WRITES) and inner.inputs:
                written = [inner.inputs[0].name]
            else:
                written = [inner.inputs[index].name for index in _written_inputs(inner)]
            found |= {places[name] for name in written if name in places}
    return found
