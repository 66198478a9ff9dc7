"""What a step of the user's own may use."""

import keras

from kparallel.compat.distribute import mirrored
from kparallel.compat.variables import place_variable
from kparallel.model_variables import variables_of
from kparallel.ownstep.held import Held

PAIR = ("CPU:0", "CPU:1")
L = keras.layers


def placed(*variables):
    for variable in variables:
        place_variable(variable, mirrored(PAIR), PAIR)


def model():
    made = keras.Sequential([keras.Input((2,)), L.Dense(2, name="d"), L.BatchNormalization(name="n"), L.Dropout(0.5)])
    made.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    made.optimizer.build(made.trainable_variables)
    return made


def test_what_a_model_holds_is_known_as_far_as_it_is_placed():
    one = model()
    assert Held(one, None, None).variables == []
    placed(*variables_of(one))
    held = Held(one, None, None)
    assert held.optimizers == [one.optimizer] and list(held.updates) == [id(one.optimizer)]
    assert set(map(id, held.variables)) == set(map(id, variables_of(one)))
    norm, dropout = one.layers[1:]
    assert held.moments == {id(norm.moving_mean), id(norm.moving_variance)}
    assert held.seeds == {id(dropout.seed_generator.state)}
    assert "loss" in {metric.name for metric in held.metrics}


def test_a_generator_is_a_seed_too():
    one, draws = model(), keras.random.SeedGenerator(1)
    placed(draws.state)
    held = Held(one, draws, None)
    assert held.variables == [draws.state] and id(draws.state) in held.seeds


def test_more_is_added_once():
    held = Held(model(), None, None)
    optimizer, metric, variable = keras.optimizers.SGD(0.2), keras.metrics.Mean(), keras.Variable(1.0)
    optimizer.build([variable])
    placed(variable, *optimizer.variables)
    before = len(held.metrics)
    for _ in range(2):
        held.add([optimizer], [metric], [variable, keras.Variable(2.0)])
    assert len(held.optimizers) == len(held.updates) == 2 and held.metrics[before:] == [metric]
    assert [id(each) for each in held.variables] == [id(variable), *map(id, optimizer.variables)]
