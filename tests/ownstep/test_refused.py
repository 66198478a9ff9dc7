"""Steps that no division into replicas carries out: refused in words, at the line of the user's code."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel import errors
from tests.equality.measure import differences, use
from tests.equality.tolerances import FLOAT64
from tests.ownstep.measure import state
from tests.ownstep.programs import Guide, mlp, regressed
from tests.pairs import pair

OUTSIDE = keras.optimizers.SGD(0.1)
COUNT = tf.Variable(0.0, dtype=tf.float64)
SCALE = tf.Variable(1.0, dtype=tf.float64, name="scale")


class Step(Guide):
    """A step that does one thing more, or another one."""

    def __init__(self, do):
        super().__init__(mlp(4, 1))
        self.do = do
        self.counter = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def slope(self, data):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(data[0]) - data[1]) ** 2)
        return tape.gradient(loss, self.trainable_weights), loss

    def train_step(self, data):
        return self.do(self, data)


def build(do):
    def made():
        model = Step(do)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.optimizer.build(model.trainable_weights)
        model.other = keras.optimizers.SGD(0.1)
        return model

    return made


def fit(model):
    data = regressed()
    return model.fit(**data, batch_size=7, shuffle=False, verbose=0).history


def of_no_optimizer_of_the_models(model, data):
    gradients, loss = model.slope(data)
    OUTSIDE.apply(gradients, model.trainable_weights)
    return {"loss": loss}


def of_a_variable_of_ones_own(model, data):
    COUNT.assign_add(1.0)
    return {"loss": model.slope(data)[1]}


def under_a_condition_of_rows(model, data):
    gradients, loss = model.slope(data)
    rate = tf.reduce_mean(data[0])
    tf.cond(rate > 0, lambda: model.optimizer.apply(gradients, model.trainable_weights), lambda: None)
    return {"loss": loss}


def in_a_function(model, data):
    @tf.function
    def update(x, y):
        gradients, loss = model.slope((x, y))
        model.optimizer.apply(gradients, model.trainable_weights)
        return loss

    return {"loss": update(*data)}


def in_a_loop(model, data):
    def body(index):
        gradients, _ = model.slope(data)
        model.optimizer.apply(gradients, model.trainable_weights)
        return index + 1

    tf.while_loop(lambda index: index < 2, body, [tf.constant(0)])
    return {}


def of_other_variables_than_the_models(model, data):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(data[0] * SCALE) - data[1]) ** 2)
    model.other.apply(tape.gradient(loss, [SCALE]), [SCALE])
    return {"loss": loss}


def gradients_under_a_condition(model, data):
    def update():
        gradients, loss = model.slope(data)
        model.optimizer.apply(gradients, model.trainable_weights)
        return loss

    return {"loss": tf.cond(model.counter < 1, update, lambda: tf.constant(0.0, tf.float64))}


def jacobian_of_rows_and_of_a_step_ahead(model, data):
    kernel = model.net.weights[0]
    with tf.GradientTape() as outer:
        gradients, loss = model.slope(data)
        ahead = tf.reduce_mean(data[0] @ (kernel - 0.1 * gradients[0]), 0)
    return {"loss": loss + tf.reduce_sum(outer.jacobian(ahead, kernel))}


def gradient_of_a_gradient_of_all_rows(model, data):
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            spread = tf.math.reduce_variance(kparallel.gather(model(data[0])))
        penalty = tf.linalg.global_norm(inner.gradient(spread, model.trainable_weights))
    model.optimizer.apply(outer.gradient(penalty, model.trainable_weights), model.trainable_weights)
    return {"penalty": penalty}


REFUSED = {
    "a gradient of a gradient of all rows": (
        gradient_of_a_gradient_of_all_rows,
        ["kparallel.gather", "the replica's own rows"],
    ),
    "a jacobian through what is reduced": (
        jacobian_of_rows_and_of_a_step_ahead,
        ["received that of both", "each entry"],
    ),
    "gradients of other variables": (of_other_variables_than_the_models, ["'scale", "add_weight"]),
    "gradients under a condition": (gradients_under_a_condition, ["a condition", "Move it out"]),
    "an optimizer that is not the model's": (
        of_no_optimizer_of_the_models,
        ["another SGD", "attribute of the model"],
    ),
    "a variable that nothing knows": (of_a_variable_of_ones_own, ["Variable", "add_weight"]),
    "a condition that depends on rows": (under_a_condition_of_rows, ["same on all replicas"]),
    "gradients in a tf.function": (in_a_function, ["tf.function", "Move it out"]),
    "gradients in a loop": (in_a_loop, ["a loop", "Move it out"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_at_the_users_line(name):
    do, words = REFUSED[name]
    use("float64")
    model = kparallel.wrap(build(do)(), replicas=2)
    with pytest.raises(errors.ModelError) as caught:
        fit(model)
    for word in [*words, "test_refused.py:"]:
        assert word in str(caught.value), caught.value


def nothing_returned(model, data):
    gradients, _ = model.slope(data)
    model.optimizer.apply(gradients, model.trainable_weights)


def no_optimizer(model, data):
    model.counter.assign_add(1.0)
    return {"loss": model.slope(data)[1]}


def under_a_condition_of_steps(model, data):
    gradients, loss = model.slope(data)
    model.counter.assign_add(1.0)
    tf.cond(model.counter % 2 < 1, lambda: model.optimizer.apply(gradients, model.trainable_weights), lambda: None)
    return {"loss": loss, "count": model.counter}


def some_weights(model, data):
    gradients, loss = model.slope(data)
    model.optimizer.apply(gradients[:2], model.trainable_weights[:2])
    return {"loss": loss, "none": None}


def fewer_gradients(model, data):
    gradients, loss = model.slope(data)
    model.optimizer.apply(gradients[:1], model.trainable_weights)
    return {"loss": loss}


def no_gradients(model, data):
    model.optimizer.apply([], [])
    return {"loss": model.slope(data)[1]}


ODD = [nothing_returned, no_optimizer, under_a_condition_of_steps, some_weights, fewer_gradients, no_gradients]


@pytest.mark.parametrize("do", ODD)
def test_odd_steps_that_equal_plain_keras(do):
    use("float64")
    results = []
    for model in pair(build(do), replicas=2):
        data, logs = regressed(), {}
        for start in range(0, 15, 7):  # `fit` of plain Keras fails where a step returns nothing.
            rows = [tf.constant(part[start : start + 7]) for part in data.values()]
            if isinstance(model, kparallel.ParallelModel):
                model.make_train_function()
                logs = model.train_function(iter([tuple(rows)]))
            else:
                logs = model.train_step(tuple(rows))
        results.append(state(model) | {key: np.asarray(value) for key, value in (logs or {}).items() if key != "none"})
    far = {key: value for key, value in differences(*results[::-1]).items() if not value <= FLOAT64}
    assert not far


@pytest.mark.parametrize("options", [{"stages": 2}, {"replicas": 2, "microbatches": 2}])
def test_stages_and_microbatches_are_refused(options):
    model = mlp(4, 1)
    model.train_step = lambda data: {}
    with pytest.raises(errors.ModelError, match="cannot be cut.*compute_loss"):
        kparallel.wrap(model, **options)
