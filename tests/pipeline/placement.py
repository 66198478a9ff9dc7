"""Where a pipeline's variables and operations lie, and what crosses between devices, read off the executed graph."""

import re
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

import kparallel

L = keras.layers
COLUMN = {"a": ("CPU:0", "CPU:2"), "b": ("CPU:1", "CPU:3"), "c": ("CPU:1", "CPU:3")}


def short(device):
    return device[-5:]


@pytest.fixture(scope="module")
def trained():
    """A 2 x 2 hybrid after one step, and the graph that TensorFlow ran for it."""
    layers = [L.Dense(8, "tanh", name="a"), L.Dense(7, "tanh", name="b"), L.Dense(5, name="c")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    wrapped = kparallel.wrap(model, replicas=2, stages=[["a"], ["b", "c"]], microbatches=2)
    wrapped.compile(keras.optimizers.Adam(0.01, global_clipnorm=1.0), "mse")
    context.enable_run_metadata()
    try:
        wrapped.fit(np.ones((8, 6), "float32"), np.ones((8, 5), "float32"), batch_size=8, verbose=0)
        metadata = context.export_run_metadata()
    finally:
        context.disable_run_metadata()
    step = max((f.post_optimization_graph for f in metadata.function_graphs), key=lambda graph: len(graph.node))
    return wrapped, step


def test_variables_and_slots_lie_on_their_stages_column(trained):
    wrapped, _ = trained
    for layer in wrapped.layers:
        for variable in layer.variables:
            assert tuple(short(v.device) for v in variable.value.values) == COLUMN[layer.name], variable.path
    slots = [v for v in wrapped.optimizer.variables if v.path.endswith(("momentum", "velocity"))]
    assert len(slots) == 12
    for slot in slots:
        layer = re.search(r"_(a|b|c)_(?:kernel|bias)", slot.path)[1]
        assert tuple(short(v.device) for v in slot.value.values) == COLUMN[layer], slot.path


def test_forward_and_backward_operations_lie_on_their_stages_device(trained):
    _, step = trained
    seen = Counter()
    for node in step.node:
        match = re.search(r"/(a|b|c)(?:_\d+)?/", node.name)
        if match and node.op not in ("Const", "_Arg"):
            row = 1 if node.name.startswith("replica_1") else 0
            assert short(node.device) == COLUMN[match[1]][row], (node.name, node.op, node.device)
            seen[match[1], "backward" if "gradients" in node.name else "forward"] += 1
    assert set(seen) == {(layer, kind) for layer in "abc" for kind in ("forward", "backward")}


def test_only_listed_tensors_cross_between_stages(trained):
    _, step = trained
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(step, name="")
    device = {node.name: short(node.device) for node in step.node}
    stage = {"CPU:0": (0, 0), "CPU:1": (0, 1), "CPU:2": (1, 0), "CPU:3": (1, 1)}
    sent = Counter()
    for operation in graph.get_operations():
        for tensor in operation.inputs:
            (row, column), (to_row, to_column) = stage[device[tensor.op.name]], stage[device[operation.name]]
            if column != to_column and tensor.shape.num_elements() > 1:
                assert row == to_row, (tensor.name, "leaves its row and its column")
                sent[row, column, to_column] += tensor.shape.num_elements() * tensor.dtype.size
    # Four microbatches in all, two for each row, of two rows of the batch each.
    activations, targets = 2 * (2 * 8 * 4), 2 * (2 * 5 * 4)
    way = {(0, 1): activations + targets, (1, 0): activations}
    assert sent == {(row, *between): size for row in (0, 1) for between, size in way.items()}


def test_gradients_are_reduced_on_their_own_column(trained):
    _, step = trained
    device = {node.name: short(node.device) for node in step.node}
    between = [
        (device[source.split(":")[0].lstrip("^")], short(node.device))
        for node in step.node
        if node.op == "AddN"
        for source in node.input
        if not source.startswith("^")
    ]
    crossing = {pair for pair in between if pair[0] != pair[1]}
    assert crossing == {("CPU:2", "CPU:0"), ("CPU:3", "CPU:1")}
