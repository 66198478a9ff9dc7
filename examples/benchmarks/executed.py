"""What TensorFlow really runs of a step, after it has put functions in place of their calls and simplified: its graph.

In the graph that is traced, a stage's function is one call, all of whose results seem to come at once.
"""

import dataclasses
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf

from kparallel.comm.communicator import Communicator

__all__: list[str] = []

_TAG = re.compile(r"(part|total)_(\d+)_(\d+)$")


def executed_graph(first_step: Callable[[], Any]) -> Any:
    """Return the marked graph that a function makes TensorFlow run for the first time, as a `GraphDef`.

    TensorFlow may report graphs of other functions with it.
    """
    with tempfile.TemporaryDirectory() as folder:
        writer = tf.summary.create_file_writer(folder)
        with writer.as_default():
            tf.summary.trace_on(graph=True, profiler=False)
            first_step()
            tf.summary.trace_export("step", step=0)
        writer.close()
        records = [record for file in Path(folder).iterdir() for record in _records(file)]
    graphs = []
    for record in records:
        for value in tf.compat.v1.Event.FromString(record).summary.value:
            for text in value.tensor.string_val:
                metadata = tf.compat.v1.RunMetadata.FromString(text)
                graphs += [function.post_optimization_graph for function in metadata.function_graphs]
    marked = [graph for graph in graphs if any(_TAG.search(node.name) for node in graph.node)]
    return max(marked, key=lambda graph: len(graph.node))


def _records(file: Path) -> Iterable[bytes]:
    return [record.numpy() for record in tf.data.TFRecordDataset(str(file))]


class Ancestry:
    """What comes before what in an executed graph.

    Args:
        graph: A `GraphDef` without loops.
    """

    def __init__(self, graph: Any) -> None:
        self.nodes = {node.name: node for node in graph.node}
        self._inputs = {
            name: {input.lstrip("^").partition(":")[0] for input in node.input} & self.nodes.keys()
            for name, node in self.nodes.items()
        }
        self._before: dict[str, set[str]] = {}

    def before(self, name: str) -> set[str]:
        """Return all nodes that must have run before one."""
        if name not in self._before:
            found: set[str] = set()
            waiting = [name]
            while waiting:
                new = self._inputs[waiting.pop()] - found
                found |= new
                waiting += new
            self._before[name] = found
        return self._before[name]

    def maker(self, name: str) -> str:
        """Return the node that computes what a node hands on or adds up: of several, the last one."""
        while self.nodes[name].op in ("Snapshot", "Identity", "AddN") and self._inputs[name]:
            name = max(self._inputs[name], key=lambda each: len(self.before(each)))
        return name


class Nobody:
    """A ring without other workers, for graphs of steps that one process carries out."""

    generation = 0

    def all_reduce(self, own: Any, add: Any) -> Any:
        return own.copy()

    def abort(self) -> None:
        return None


class Tagged(Communicator):
    """A communicator that leaves a mark at each gradient that goes in and at each sum that comes out.

    Args:
        inner: The exchange that does the work.
        stage_index: Its stage.
        shapes: Of the gradients, which tell their sum from other sums.
    """

    def __init__(self, inner: Communicator, stage_index: int, shapes: list[tuple[int, ...]]) -> None:
        self._inner = inner
        self._stage_index = stage_index
        self._shapes = shapes

    @property
    def replica_index(self) -> int:
        return self._inner.replica_index

    def all_gather(self, values: list[Any]) -> list[list[Any]]:
        return self._inner.all_gather(values)

    def all_reduce(self, values: list[Any]) -> list[Any]:
        number = len(self._shapes)
        if len(values) < number or not all(map(_fits, values, self._shapes)):
            return self._inner.all_reduce(values)
        parts = [self._marked(value, "part", index) for index, value in enumerate(values[:number])]
        sums = self._inner.all_reduce([*parts, *values[number:]])  # What goes along: state and the report.
        return [*(self._marked(value, "total", index) for index, value in enumerate(sums[:number])), *sums[number:]]

    def _marked(self, value: Any, kind: str, index: int) -> Any:
        """Return a copy: of all that gives its input back, TensorFlow's optimizer leaves this operation alone."""
        if isinstance(value, tf.IndexedSlices):
            return tf.IndexedSlices(self._marked(value.values, kind, index), value.indices, value.dense_shape)
        name = f"{kind}_{self._stage_index}_{index}"
        copy = tf.raw_ops.Snapshot(input=value, name=name)
        # Else two gradients that are equal by their making would be marked by one operation.
        copy.op._set_attr("_mark", tf.compat.v1.AttrValue(s=name.encode()))
        return copy


def _fits(value: Any, shape: tuple[int, ...]) -> bool:
    return bool(tf.TensorShape(value.shape).is_compatible_with(shape))


def early_share(
    model: Any, first_step: Callable[[], Any], communicators: Iterable[Communicator] | None = None
) -> float:
    """Return the share of gradient bytes whose reduction may end before the last backward operation has run.

    Args:
        model: A wrapped model that is compiled and has made no step yet.
        first_step: Makes it.
        communicators: One for each stage, in place of the model's own.
    """
    runtime = model._kparallel
    stages = runtime.pipeline(model).stages
    own = list(communicators or runtime.placement.communicators)
    shapes = [[tuple(variable.shape) for variable in stage.owned] for stage in stages]
    tagged = tuple(Tagged(each, s, shapes[s]) for s, each in enumerate(own))
    runtime.placement = dataclasses.replace(runtime.placement, communicators=tagged)
    ancestry = Ancestry(executed_graph(first_step))
    places: dict[str, dict[tuple[int, int], set[str]]] = {"part": defaultdict(set), "total": defaultdict(set)}
    for name in ancestry.nodes:
        if match := _TAG.search(name):
            places[match[1]][int(match[2]), int(match[3])].add(name)
    sizes = {
        (s, index): variable.value.dtype.size * int(tf.size(variable))
        for s, stage in enumerate(stages)
        for index, variable in enumerate(stage.owned)
    }
    assert places["part"].keys() == places["total"].keys() == sizes.keys(), "every gradient is reduced once"
    parts = [name for names in places["part"].values() for name in names]
    last = set()
    for replica in range(len(places["part"][0, 0])):
        own = [name for name in parts if (f"replica_{replica}/" in name if replica else "replica_" not in name)]
        last.add(ancestry.maker(max(own, key=lambda name: len(ancestry.before(name)))))
    early = [key for key, names in places["total"].items() if not any(last & ancestry.before(name) for name in names)]
    return sum(sizes[key] for key in early) / sum(sizes.values())
