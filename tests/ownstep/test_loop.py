"""A training loop of one's own, as TensorFlow's guide writes it, equals the same loop on one device."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from tests.choice import some
from tests.equality.measure import differences, use
from tests.equality.tolerances import FLOAT64
from tests.ownstep.programs import FEATURES, mlp, regressed
from tests.pairs import seeded

BATCH = 6  # Of 15 rows: the last batch has 3, of which one replica has 2 and the other 1.


def loop(strategy, model, optimizer, compiled, loss):
    """Train, and return the losses of the batches."""
    data = regressed()
    batches = tf.data.Dataset.from_tensor_slices((data["x"], data["y"])).batch(BATCH)
    error = keras.metrics.MeanAbsoluteError()

    def step(batch):
        x, y = batch
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            value = loss(y, y_pred)
        gradients = tape.gradient(value, model.trainable_weights)
        optimizer.apply(gradients, model.trainable_weights)
        error.update_state(y, y_pred)
        return value

    if strategy is None:
        return [float(step(batch)) for batch in batches], float(error.result())

    def whole(batch):
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(step, args=(batch,)), axis=None)

    whole = tf.function(whole) if compiled else whole
    return [float(whole(batch)) for batch in strategy.experimental_distribute_dataset(batches)], float(error.result())


def averaged(y, y_pred):
    return tf.nn.compute_average_loss(tf.reduce_sum((y - y_pred) ** 2, 1), global_batch_size=BATCH)


def states(model, optimizer, results):
    losses, error = results
    found = {f"{index}": variable.numpy() for index, variable in enumerate([*model.variables, *optimizer.variables])}
    return found | {"losses": np.asarray(losses), "error": np.asarray(error)}


def trained_in_a_loop(strategy_of, compiled=True, held=True, kind=keras.optimizers.Adam):
    """Return what a model comes to in a loop: under the strategy that a function of it gives, or on one device."""
    use("float64")
    model = seeded(lambda: mlp(8, 1))
    optimizer = kind(0.01, global_clipnorm=0.1)
    if held:
        model.compile(optimizer)
    results = loop(strategy_of(model), model, optimizer, compiled, averaged)
    kparallel.bring_together(model)  # Where workers share the optimizer out.
    return states(model, optimizer, results)


@pytest.mark.parametrize(
    ("held", "shard", "compiled"),
    some(
        [
            (held, shard, compiled)
            for held in (True, False)
            for shard in (None, "optimizer")
            for compiled in (True, False)
        ],
        (False, None, False),
        (True, "optimizer", False),
        (False, "optimizer", True),
    ),
)
def test_a_loop_of_ones_own_equals_one_device(held, shard, compiled):
    strategies = [lambda _: None, lambda model: kparallel.wrap(model, replicas=2, shard=shard).distribute_strategy]
    results = [trained_in_a_loop(each, compiled, held) for each in strategies]
    far = {key: value for key, value in differences(*results[::-1]).items() if not value <= FLOAT64}
    assert not far


def test_kerass_losses_divide_by_the_replicas_in_a_loop():
    use("float64")
    model = kparallel.wrap(mlp(1), replicas=2)
    loss = keras.losses.MeanSquaredError()
    found = model.distribute_strategy.run(lambda: loss(tf.ones((3, 1)), tf.zeros((3, 1))))
    assert [float(each) for each in found.values] == [0.5, 0.5]


def test_statistics_are_alike_behind_a_loop():
    use("float64")
    norm = keras.layers.BatchNormalization(momentum=0.5)
    model = kparallel.wrap(keras.Sequential([keras.Input((FEATURES,)), norm]), replicas=2)
    strategy = model.distribute_strategy
    x = regressed()["x"][:8]
    (batch,) = strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensors(x).unbatch().batch(8))
    tf.function(lambda batch: strategy.run(lambda x: model(x, training=True), args=(batch,)))(batch)
    np.testing.assert_allclose(norm.moving_mean.numpy(), 0.5 * x.mean(0), atol=FLOAT64)
    np.testing.assert_array_equal(*[copy.numpy() for copy in norm.moving_variance.value.values])


def test_steps_that_one_function_makes_for_several_optimizers_are_told_apart():
    def made(model, optimizer, weights):
        def step(batch):
            with tf.GradientTape() as tape:
                value = averaged(batch[1], model(batch[0], training=True))
            optimizer.apply(tape.gradient(value, weights), weights)

        return step

    def trained(wrap):
        use("float64")
        model = seeded(lambda: mlp(8, 4, 1))
        run = wrap(model)
        first, others = model.layers[0].trainable_weights, model.trainable_weights[2:]
        # Eagerly: what is found out about the first one must not be taken for the other, which has more weights.
        steps = made(model, keras.optimizers.SGD(0.1), first), made(model, keras.optimizers.Adam(0.01), others)
        data = regressed()
        for step in steps:
            run(step, (data["x"][:BATCH], data["y"][:BATCH]))
        return {str(index): variable.numpy() for index, variable in enumerate(model.variables)}

    def over_two(model):
        strategy = kparallel.wrap(model, replicas=2).distribute_strategy

        def run(step, batch):
            batches = tf.data.Dataset.from_tensors(batch).unbatch().batch(BATCH)
            for each in strategy.experimental_distribute_dataset(batches):
                strategy.run(step, args=(each,))

        return run

    results = trained(over_two), trained(lambda _: lambda step, batch: step(batch))
    assert all(value <= FLOAT64 for value in differences(*results).values())
