"""How a step of one's own is called: evaluated, predicted, eagerly, several times in one call, on other data."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from tests.choice import some
from tests.equality.measure import differences, use
from tests.equality.tolerances import FLOAT64
from tests.ownstep.measure import plain, state, train, wrapped
from tests.ownstep.programs import FEATURES, PROGRAMS, Adversaries, Guide, mlp, regressed
from tests.pairs import pair, seeded

L = keras.layers


def equal(one, other):
    far = {name: value for name, value in differences(one, other).items() if not value <= FLOAT64}
    assert not far


@pytest.mark.parametrize("name", some(["guide", "inherited", "learned_noise"], "guide"))
def test_validation_and_prediction(name):
    results = []
    use("float64")
    for model in pair(PROGRAMS[name].model, replicas=3):
        data = PROGRAMS[name].data()
        found = train(model, data, validation_data=(data["x"][:10], data["y"][:10]))
        found |= {f"evaluated {key}": value for key, value in evaluated(model, data).items()}
        outputs = keras.tree.flatten(model.predict(data["x"], batch_size=7, verbose=0))
        results.append(found | {f"output {index}": value for index, value in enumerate(outputs)})
    equal(*results[::-1])


def evaluated(model, data):
    return {key: np.asarray(v) for key, v in model.evaluate(**data, batch_size=5, verbose=0, return_dict=True).items()}


EAGERLY = ["inherited", "learned_noise", "sharpness_aware", "adversaries", "masked_language"]


@pytest.mark.parametrize("name", some(EAGERLY, "inherited"))
def test_eagerly(name):
    use("float64")
    model = kparallel.wrap(seeded(PROGRAMS[name].model), replicas=2, **PROGRAMS[name].options)
    model.run_eagerly = True
    equal(train(model, PROGRAMS[name].data()), plain(name))


@pytest.mark.parametrize("name", ["guide", "sharpness_aware"])
def test_in_one_replica(name):
    equal(wrapped(name, 1), plain(name))


def test_a_model_is_unwrapped_and_trained_on():
    use("float64")
    results = []
    for model in pair(PROGRAMS["adversaries"].model, replicas=2):
        data = PROGRAMS["adversaries"].data()
        train(model, data)
        if isinstance(model, kparallel.ParallelModel):
            model.unwrap()
        results.append(train(model, data))
    equal(*results[::-1])


@pytest.mark.full
def test_every_size_of_batch():
    """From one row up to two for each replica and one more, each in a batch of its own."""
    use("float64")
    plain_model, model = pair(PROGRAMS["learned_noise"].model, replicas=3)
    data = regressed()
    for rows in range(1, 8):
        for each in (plain_model, model):
            each.fit(data["x"][:rows], data["y"][:rows], batch_size=8, verbose=0)
    equal(state(model), state(plain_model))


@tf.custom_gradient
def clipped(outputs):
    """Clips the gradient of each row, that of a mean over seven rows."""
    return tf.identity(outputs), lambda upstream: tf.clip_by_value(upstream, -0.1, 0.1)


class Clipping(Guide):
    """Also resets a metric in the step, so that it is of the last batch alone."""

    def __init__(self, net):
        super().__init__(net)
        self.error = keras.metrics.MeanAbsoluteError(name="error")

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = tf.reduce_mean((clipped(y_pred) - y) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        self.error.reset_state()
        self.error.update_state(y, y_pred)
        return {"loss": loss, "of the batch": self.error.result()}


@pytest.mark.parametrize("eager", some([False, True], False))
def test_what_is_done_to_gradients_on_their_way_is_as_on_one_device(eager):
    def clipping():
        model = Clipping(mlp(4, 1))
        model.compile(keras.optimizers.Adam(0.01), run_eagerly=eager)
        return model

    use("float64")
    equal(*(train(model, regressed()) for model in pair(clipping, replicas=2)[::-1]))


class Insisting(Guide):
    """Reads the number of rows in Python, as a step may whose data have a fixed batch size."""

    def __init__(self, net):
        super().__init__(net)
        self.weighted, self.counted = keras.metrics.Mean(name="weighted"), keras.metrics.Mean(name="counted")
        self.error = keras.metrics.MeanAbsoluteError(name="error")

    def train_step(self, data):
        x, y = data
        scale = 1.0 / int(x.shape[0])
        with tf.GradientTape() as tape:
            loss = scale * tf.reduce_sum((self(x, training=True) - y) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        self.weighted.update_state(loss, sample_weight=tf.shape(x)[0])
        self.counted.update_state(loss)
        self.error.update_state(y, self(x))
        return {m.name: m.result() for m in (self.weighted, self.counted, self.error)}


def insisting():
    model = Insisting(mlp(8, 1))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def test_a_step_that_insists_on_the_number_of_rows():
    use("float64")
    data = regressed()
    batches = tf.data.Dataset.from_tensor_slices((data["x"], data["y"])).batch(7, drop_remainder=True)
    results = []
    for model in pair(insisting, replicas=3):
        history = model.fit(batches, epochs=2, verbose=0).history
        results.append(state(model) | {f"history {key}": np.asarray(value) for key, value in history.items()})
    equal(*results[::-1])


def test_a_dataset_that_is_divided_by_hand():
    use("float64")
    plain_model, model = pair(PROGRAMS["guide"].model, replicas=2)
    data = regressed()
    batches = tf.data.Dataset.from_tensor_slices((data["x"], data["y"])).batch(6)
    plain_model.fit(batches, epochs=2, verbose=0)
    model.fit(model.distribute_strategy.experimental_distribute_dataset(batches), epochs=2, verbose=0)
    equal(state(model), state(plain_model))


def test_train_on_batch_and_the_like():
    use("float64")
    results = []
    for model in pair(PROGRAMS["guide"].model, replicas=3):
        data = regressed()
        logs = model.train_on_batch(data["x"], data["y"], return_dict=True)
        logs |= {f"test {k}": v for k, v in model.test_on_batch(data["x"], data["y"], return_dict=True).items()}
        found = {key: np.asarray(value) for key, value in logs.items()}
        results.append(state(model) | found | {"output": model.predict_on_batch(data["x"][:5])})
    equal(*results[::-1])


def test_batch_norm_is_averaged_over_the_replicas():
    """As in Keras's own step: the statistics take one step with the moments' average, equal on all replicas."""
    use("float64")
    x = np.random.default_rng(0).normal(size=(8, FEATURES))
    norm = L.BatchNormalization(momentum=0.5)
    model = kparallel.wrap(Guide(keras.Sequential([keras.Input((FEATURES,)), norm, L.Dense(1)])), replicas=2)
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((8, 1)), batch_size=8, shuffle=False, verbose=0)
    np.testing.assert_allclose(norm.moving_mean.numpy(), 0.5 * x.mean(0), atol=FLOAT64)
    np.testing.assert_allclose(norm.moving_variance.numpy(), 0.5 + 0.25 * (x[:4].var(0) + x[4:].var(0)), atol=FLOAT64)
    copies = [copy.numpy() for copy in norm.moving_variance.value.values]
    np.testing.assert_array_equal(*copies)


class Scaling(Guide):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_weights)
        self.optimizer.apply(grads=gradients, trainable_variables=self.trainable_weights)
        return {"loss": loss, "scale": self.optimizer.dynamic_scale}


def test_the_loss_scale():
    """An infinite row, in one replica's share, skips the step on all of them."""
    use("float64")

    def build():
        model = Scaling(mlp(8, 1))
        model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=8.0), "mse")
        return model

    results = []
    for model in pair(build, replicas=2):
        data = regressed()
        data["y"][12] = np.inf
        history = model.fit(**data, batch_size=7, epochs=2, shuffle=False, verbose=0).history
        results.append(state(model) | {"scale": np.asarray(history["scale"])})
    equal(*results[::-1])


@pytest.mark.parametrize(
    "options",
    some(
        [{"gradient_accumulation_steps": 2}, {"use_ema": True, "ema_overwrite_frequency": 2}],
        {"gradient_accumulation_steps": 2},
    ),
)
def test_what_optimizers_do_in_conditions(options):
    use("float64")

    def build():
        model = PROGRAMS["guide"].model()
        model.compile(keras.optimizers.Adam(0.01, **options), "mse")
        return model

    equal(*[train(model, regressed()) for model in pair(build, replicas=2)][::-1])


@pytest.mark.full
def test_a_class_whose_metrics_are_made_in_compile_is_wrapped_before():
    use("float64")
    equal(*[train(model, PROGRAMS["adversaries"].data()) for model in map(compiled_adversaries, (False, True))][::-1])


def compiled_adversaries(wrap):
    model = seeded(Adversaries)
    model = kparallel.wrap(model, replicas=2) if wrap else model
    model.compile(keras.optimizers.Adam(0.01, beta_1=0.5), keras.optimizers.RMSprop(0.01))
    return model


class TwoOutputs(Guide):
    """Has a loss for each output, which Keras counts by itself."""

    def __init__(self):
        super().__init__(mlp(8, 1))
        self.other = mlp(8, 1)

    def call(self, x, training=False):
        return {"one": self.net(x), "other": self.other(x)}

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=x, y={"one": y, "other": 2 * y}, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss} | {metric.name: metric.result() for metric in self.metrics if metric.name != "loss"}


def test_losses_of_several_outputs():
    use("float64")

    def build():
        model = TwoOutputs()
        model.compile(keras.optimizers.SGD(0.05), {"one": "mse", "other": "mae"})
        return model

    equal(*[train(model, regressed()) for model in pair(build, replicas=2)][::-1])


class Rated(Guide):
    """Sets the learning rate, and a bias, by means over the rows before it updates."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.learning_rate.assign(0.01 * loss)
        bias = self.trainable_weights[-1]
        bias.assign(bias + 0.1 * tf.reduce_mean(y, 0))
        self.optimizer.apply(gradients, self.trainable_weights)
        return {"loss": loss}


def test_what_an_update_starts_from_is_of_the_whole_batch():
    use("float64")

    def build():
        model = Rated(mlp(1))
        model.compile(keras.optimizers.SGD(0.1))
        return model

    models = pair(build, replicas=2)
    equal(*[train(model, regressed()) for model in models][::-1])
    for weight in models[1].trainable_weights:
        np.testing.assert_array_equal(*[copy.numpy() for copy in weight.value.values])
