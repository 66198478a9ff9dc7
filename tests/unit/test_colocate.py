"""On which devices operations run that have none of their own."""

import tensorflow as tf

from kparallel.engine.colocate import colocate_with_forward, colocate_with_inputs


def devices(function, *shapes):
    """Return the device of each operation of a traced function, by name."""
    specs = [tf.TensorSpec(shape) for shape in shapes]
    graph = tf.function(function, autograph=False).get_concrete_function(*specs).graph
    return {operation.name: operation.device for operation in graph.get_operations()}


def test_an_operation_follows_its_first_input_that_has_a_device():
    def norms(x, y):
        with tf.device("CPU:1"):
            one = tf.identity(x, name="one")
        with tf.device("CPU:2"):
            two = tf.identity(y, name="two")
        with colocate_with_inputs():
            scaled = tf.multiply(two, 2.0, name="scaled")
            tf.add(tf.square(one, name="square"), scaled, name="sum")
            with tf.device("CPU:3"):
                tf.negative(scaled, name="own")

    found = devices(norms, (2,), (2,))
    assert [found[name][-1] for name in ("square", "scaled", "sum", "own")] == ["1", "2", "1", "3"]


def test_a_backward_operation_follows_the_nearest_forward_one():
    def backward(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            with tf.device("CPU:1"), tf.name_scope("block"):
                inner = tf.matmul(x, w, name="product")
            with tf.device("CPU:2"):
                loss = tf.reduce_sum(tf.tanh(inner, name="last"), name="loss")
        with colocate_with_forward():
            tape.gradient(loss, w)

    found = devices(backward, (4, 3), (3, 2))
    of_tape = {name: device[-1:] for name, device in found.items() if name.startswith("gradient_tape")}
    assert {device for name, device in of_tape.items() if "block/product" in name} == {"1"}
    assert {device for name, device in of_tape.items() if "last" in name or "loss" in name} <= {"2"}


def test_eager_operations_are_left_alone():
    with colocate_with_inputs(), colocate_with_forward():
        assert float(tf.constant(1.0) + 1.0) == 2.0
