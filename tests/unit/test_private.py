"""Names the private name that a release of Keras or TensorFlow moved."""

import operator

import keras
import numpy as np
import pytest
import tensorflow as tf

from kparallel.private import (
    KERAS_ATTRIBUTES,
    PRIVATE_NAMES,
    XSpace,
    called_graphs,
    float8_variables,
    mirrored,
    read_profile,
    run_independently,
)


@pytest.mark.parametrize(("owner", "name"), PRIVATE_NAMES)
def test_private_name_exists(owner, name):
    assert hasattr(operator.attrgetter(owner.removeprefix("keras."))(keras), name), f"{owner} lost {name}"


@pytest.fixture(scope="module")
def trained():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dropout(0.5)(inputs)))
    model.compile("adam", "mse")
    model.fit(np.ones((3, 3)), np.ones((3, 1)), validation_split=0.4, verbose=0)
    model.predict(np.ones((3, 3)), verbose=0)
    return model


@pytest.mark.parametrize(
    "path",
    [
        "_compile_config.config",
        "_layers",
        "_metrics",
        "_loss_tracker",
        "_compile_loss._flat_losses",
        "_distribute_strategy",
        "optimizer._trainable_variables",
        "optimizer._learning_rate",
        "layers._metrics",
        "layers._seed_generators",
        "weights._value",
        "weights._path",
    ],
)
def test_private_attribute_exists(trained, path):
    first, _, rest = path.partition(".")
    owner = getattr(trained, first)
    if rest:
        assert operator.attrgetter(rest)(owner[-1] if isinstance(owner, list) else owner) is not None
    assert "jit_compile" in trained._compile_config.config


def test_every_public_attribute_that_keras_keeps_is_known(trained):
    assert {name for name in vars(trained) if not name.startswith("_")} <= KERAS_ATTRIBUTES


def test_functions_have_what_orders_stateful_operations():
    @tf.function(autograph=False)
    def two(value):
        one = tf.numpy_function(lambda v: v, [value], tf.float32)
        run_independently(one.op)
        tf.numpy_function(lambda v: v, [value], tf.float32)
        return one

    operations = two.get_concrete_function(tf.ones(2)).graph.get_operations()
    first, second = [operation for operation in operations if operation.type == "PyFunc"]
    assert first not in second.control_inputs and second not in first.control_inputs


def test_graphs_of_called_functions_are_found():
    inner = tf.function(lambda value: value + 1.0, autograph=False)

    @tf.function(autograph=False)
    def outer(value):
        value = tf.cond(value > 0, lambda: value + 2.0, lambda: value)
        return inner(tf.while_loop(lambda v: v < 3.0, lambda v: (v + 1.0,), (value,))[0])

    operations = outer.get_concrete_function(tf.TensorSpec(())).graph.get_operations()
    found = [graphs for graphs in map(called_graphs, operations) if graphs]
    assert [set(graphs) for graphs in found] == [{"then_branch", "else_branch"}, {"body", "cond"}, {"f"}]
    for operation, graphs in zip([o for o in operations if called_graphs(o)], found, strict=True):
        for name, graph in graphs.items():
            assert len(graph.inputs) == len(operation.inputs) - name.endswith("_branch"), name
            assert name == "cond" or len(graph.outputs) == len(operation.outputs), name


@pytest.mark.parametrize("layer", [keras.layers.Dense(2), keras.layers.EinsumDense("ab,bc->ac", 2)])
def test_the_variables_of_float8_are_found(layer):
    layer.build((None, 3))
    layer.quantize("float8")
    assert len(float8_variables([layer])) == 6


def test_strategies_number_their_collectives_apart():
    one, other = (mirrored(["CPU:0", "CPU:1"]).extended._collective_keys._group_key for _ in range(2))
    assert abs(one - other) >= 16


def add_event(plane, line, name, start, end, **stats):
    plane.event_metadata[len(plane.event_metadata) + 1].name = name
    event = line.events.add(metadata_id=len(plane.event_metadata), offset_ps=start, duration_ps=end - start)
    for key, value in stats.items():
        for text in (key, value):
            plane.stat_metadata[len(plane.stat_metadata) + 1].name = text
        number = len(plane.stat_metadata)
        event.stats.add(metadata_id=number - 1, ref_value=number)


@pytest.mark.parametrize("gpu", [False, True])
def test_a_profile_is_read(gpu, tmp_path):
    """Of a host alone, its pool's operations; beside GPUs, their streams' kernels with the operation of each."""
    space = XSpace()
    host = space.planes.add(name="/host:CPU")
    python = host.lines.add(name="python", id=1, timestamp_ns=5_000)
    pool = host.lines.add(name="tf_Compute/2", id=2, timestamp_ns=5_001)
    add_event(host, python, "one", 0, 10)
    add_event(host, pool, "0F0/a:MatMul", 1_000_000, 3_000_000)
    if gpu:
        device = space.planes.add(name="/device:GPU:0")
        stream = device.lines.add(name="Stream #13", id=3, timestamp_ns=5_002)
        add_event(device, stream, "ampere_sgemm", 0, 2_000_000, tf_op="0F0/a:MatMul")
    space.planes.add(name="Task Environment")
    path = tmp_path / "host.xplane.pb"
    path.write_bytes(space.SerializeToString())
    first, second = read_profile(path)
    assert (first.thread, first.name, first.start, first.end) == ("python/1", "one", 0.0, 1e-11)
    assert second.thread == ("/device:GPU:0/Stream #13" if gpu else "tf_Compute/2/2")
    assert second.stats.get("tf_op", second.name) == "0F0/a:MatMul"
    assert (second.start, second.end) == pytest.approx((2e-9, 2.002e-6) if gpu else (1.001e-6, 3.001e-6))
