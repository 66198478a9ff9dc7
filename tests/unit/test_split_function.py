"""A split backward pass gives the gradients of the unsplit one, and computes nothing twice."""

import copy
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kparallel.engine.split_function import SplitFunction
from kparallel.engine.stage_call import TapedCall
from kparallel.engine.stage_device import StageDevice
from kparallel.engine.stage_function import stage_function
from kparallel.errors import PlanError
from kparallel.stage.graph import open_graph
from kparallel.stage.pipeline import cut_into_stages
from kparallel.stage.value import Value, differentiable_leaves
from tests.assertions import doubles

layers = keras.layers
ROWS = 4


def stages_of(model, *starts):
    """Cut a model before the calls with these indices."""
    graph = open_graph(model)
    bounds = [0, *starts, len(graph.calls)]
    return cut_into_stages(model, graph, [tuple(range(a, b)) for a, b in itertools.pairwise(bounds)])


def chain():
    return keras.Sequential([keras.Input((3,)), *(layers.Dense(3, activation="tanh") for _ in range(3))])


def two_headed():
    x = inputs = keras.Input((3,))
    x = layers.LayerNormalization()(layers.Dense(3, activation="tanh")(layers.Dense(3)(x)))
    return keras.Model(inputs, [layers.Dense(2, name="a")(x), layers.Dense(1, activation="sigmoid", name="b")(x)])


def norms():
    x = inputs = keras.Input((3,))
    x = layers.BatchNormalization()(layers.Dense(3, activity_regularizer="l2")(layers.Dense(3)(x)))
    return keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.5, seed=1)(x)))


def recurrent():
    x = inputs = keras.Input((5, 3))
    return keras.Model(inputs, layers.LSTM(2)(layers.Dense(3)(x)))


MODELS = {"chain": chain, "two_headed": two_headed, "norms": norms, "recurrent": recurrent}


def both(pipeline, s, inputs, jit=False):
    """Return a stage's call on a tape, and the split one."""
    stage = pipeline.stages[s]
    weights, state = [tf.identity(v.value) for v in stage.weights], stage.state.read(0)
    received = [number not in pipeline.inputs for number in stage.reads]
    tensors = [value.tensor for value, is_received in zip(inputs, received, strict=True) if is_received]
    function = stage_function(stage, True, jit=False, inline=False)
    taped = TapedCall(function, StageDevice("CPU:0"), weights, state, inputs, tensors, ROWS)
    return taped, SplitFunction(stage, received, jit).call(weights, state, inputs, ROWS)


def gradients(call, cotangents):
    factors = [tf.ones((), term.numerator.dtype) for term in call.added]
    return [*call.input_gradients(cotangents, factors), *call.weight_gradients()]


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(tf.convert_to_tensor(a), tf.convert_to_tensor(b), rtol=0, atol=1e-12)


@pytest.fixture(autouse=True)
def seeded_doubles():
    doubles()
    keras.utils.set_random_seed(0)


@pytest.mark.parametrize("name", MODELS)
def test_it_gives_the_gradients_of_a_tape(name):
    model = MODELS[name]()  # XLA draws other numbers, and compiles no loop that is differentiated.
    pipeline = stages_of(model, 1)
    values = pipeline.feed(tf.random.stateless_normal([ROWS, *model.input_shape[1:]], [1, 2], dtype=tf.float64))
    for s, stage in enumerate(pipeline.stages):
        taped, split = both(
            pipeline, s, [values[number] for number in stage.reads], jit=name in ("chain", "two_headed")
        )
        assert_equal(tf.nest.flatten(split.forward.state), tf.nest.flatten(taped.forward.state))
        leaves = differentiable_leaves(taped.forward.outputs)
        assert_equal(differentiable_leaves(split.forward.outputs), leaves)
        assert len(split.added) == len(taped.added) == (s == 1 and name == "norms")
        cotangents = [
            None if leaf is None else tf.random.stateless_normal(leaf.shape, [3, 4], dtype=leaf.dtype)
            for leaf in leaves
        ]
        assert_equal(gradients(split, cotangents), gradients(taped, cotangents))
        values.update(zip(stage.writes, taped.forward.outputs, strict=True))


def test_what_no_cotangent_reaches_has_no_gradient():
    pipeline = stages_of(two_headed(), 1)
    inputs = [Value(tf.ones((ROWS, 3), tf.float64))]
    stage = pipeline.stages[1]
    names = [variable.path for variable in stage.weights]
    taped, split = both(pipeline, 1, inputs)
    cotangents = [
        tf.ones_like(leaf) if leaf is not None and leaf.shape[-1] == 2 else None
        for leaf in differentiable_leaves(split.forward.outputs)
    ]
    found = gradients(split, cotangents)
    assert [name for name, each in zip(names, found[1:], strict=True) if each is None] == ["b/kernel", "b/bias"]
    reached = [each for each in found if each is not None]
    assert_equal(
        reached, [each for each, own in zip(gradients(taped, cotangents), found, strict=True) if own is not None]
    )
    _, split = both(pipeline, 1, inputs)
    assert gradients(split, [None] * len(cotangents)) == [None] * len(found)


class Root(layers.Layer):
    """Has an infinite derivative, which times a cotangent of zero is no number."""

    def call(self, x):
        return tf.pow(0 * x, tf.constant(0.5, x.dtype))


def test_an_infinite_derivative_of_an_output_without_a_cotangent_changes_nothing():
    def rooted():
        x = layers.Dense(3, name="a")(inputs := keras.Input((3,)))
        return keras.Model(inputs, [layers.Dense(2, name="b")(x), Root()(x)])

    pipeline, inputs = stages_of(rooted()), [Value(tf.ones((ROWS, 3), tf.float64))]
    (stage,) = pipeline.stages
    weights = [tf.identity(v.value) for v in stage.weights]
    with tf.GradientTape() as tape:
        tape.watch(weights)
        leaves = differentiable_leaves(stage.forward(weights, [], inputs, True).outputs)
        is_used = [leaf is not None and leaf.shape[1] == 2 for leaf in leaves]
        (used,) = itertools.compress(leaves, is_used)
    expected = tape.gradient(used, weights)
    assert all(np.isfinite(each).all() for each in expected)
    for first in both(pipeline, 0, inputs):
        second = copy.copy(first)  # As that of another microbatch, which ran forward before the first ran backward.
        cotangents = [tf.ones_like(used) if each else None for each in is_used]
        for call in (first, second):
            assert_equal(gradients(call, cotangents), expected)


def products(part):
    if part.function is None:
        return 0
    return sum("MatMul" in operation.type for operation in part.function.graph.get_operations())


def test_no_product_of_matrices_is_computed_twice():
    """Of three dense layers, of which the first stage has one."""
    pipeline, x = stages_of(chain(), 1), Value(tf.ones((ROWS, 3), tf.float64))
    parts = [both(pipeline, s, [x])[1].parts for s in range(2)]
    first, second = ([products(p) for p in (each.forward, each.of_inputs, each.of_weights)] for each in parts)
    assert first == [1, 0, 1], "nobody waits for the gradient of the inputs of the first stage"
    assert second == [2, 2, 2]


def test_slices_stay_slices():
    model = keras.Sequential(
        [keras.Input((2,), dtype="int32"), layers.Embedding(5, 3), layers.Flatten(), layers.Dense(1)]
    )
    pipeline = stages_of(model, 1)
    taped, split = both(pipeline, 0, [Value(tf.constant([[0, 1], [1, 4]]))])
    cotangents = [tf.ones((2, 2, 3), tf.float64), None]
    one, other = gradients(split, cotangents), gradients(taped, cotangents)
    assert isinstance(one[0], tf.IndexedSlices) and one[0].indices.numpy().tolist() == [0, 1, 1, 4]
    assert_equal(one, other)


@keras.saving.register_keras_serializable("test")
class Refusing(layers.Dense):
    """Asserts that its inputs are positive."""

    def call(self, x):
        tf.debugging.assert_positive(x, "not positive")
        return super().call(x)


def test_what_the_forward_pass_asserts_is_asserted():
    model = keras.Sequential([keras.Input((3,)), Refusing(2), layers.Dense(1)])
    stage = stages_of(model, 1).stages[0]
    function = SplitFunction(stage, [False], jit=False)
    weights = [tf.identity(variable.value) for variable in stage.weights]
    run = tf.function(
        lambda x: function.call(weights, stage.state.read(0), [Value(x)], ROWS).forward.outputs[0].tensor,
        autograph=False,
    )
    run(tf.ones((ROWS, 3), tf.float64))
    with pytest.raises(tf.errors.InvalidArgumentError, match="not positive"):
        run(-tf.ones((ROWS, 3), tf.float64))


def test_a_stage_that_reads_a_foreign_variable_is_refused():
    foreign = tf.Variable(np.float64(2), name="foreign")

    class Foreign(layers.Layer):
        def call(self, x):
            return x * foreign

    stage = stages_of(keras.Sequential([keras.Input((3,)), Foreign(), layers.Dense(1)]), 1).stages[0]
    split = SplitFunction(stage, [False], jit=False)
    function = tf.function(
        lambda x: split.call([], stage.state.read(0), [Value(x)], ROWS).forward.outputs[0].tensor, autograph=False
    )
    with pytest.raises(PlanError, match="foreign"):
        function(tf.ones((ROWS, 3), tf.float64))


class Folded(layers.Layer):
    """Multiplies by what it computes from its kernel."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], shape[-1]), initializer="glorot_uniform")

    def call(self, x):
        return x @ (2 * self.kernel + keras.ops.transpose(self.kernel))


@pytest.mark.parametrize("renews", [False, True])
def test_a_call_that_takes_its_weights_anew_keeps_nothing_that_follows_from_them_alone(renews):
    (stage,) = stages_of(keras.Sequential([keras.Input((3,)), Folded()])).stages
    weights, x = [tf.identity(stage.weights[0].value)], tf.ones((ROWS, 3), tf.float64)
    call = SplitFunction(stage, [True], False, renews).call(weights, [], [Value(x)], ROWS)
    kept = [tensor.shape.as_list() for tensor in call.parts.forward.gives]
    assert ([3, 3] in kept) == (not renews) and [ROWS, 3] in kept
    call.renew_weights([-weights[0]])
    cotangent, folded = tf.ones((ROWS, 3), tf.float64), 2 * weights[0] + tf.transpose(weights[0])
    (of_input,) = call.input_gradients([cotangent, None], [])
    (of_kernel,) = call.weight_gradients()
    assert_equal([of_input], [cotangent @ tf.transpose(-folded if renews else folded)])
    product = tf.transpose(x) @ cotangent
    assert_equal([of_kernel], [2 * product + tf.transpose(product)])
