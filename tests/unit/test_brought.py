"""Weights that come to every replica for a step, and go again."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel.compat.functions import traced
from kparallel.compat.variables import copies_of, has_single_copy
from kparallel.model.columns import owners_of
from kparallel.ownstep.brought import BroughtWeights
from tests.assertions import doubles
from tests.pairs import seeded
from tests.uneven import net


def wrapped():
    doubles()
    model = kparallel.wrap(seeded(net), replicas=2, shard="weights")
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.optimizer.build(model.trainable_variables)
    model.make_train_function()
    return model, model._kparallel


def held(copy):
    return tf.raw_ops.ReadVariableOp(resource=copy.handle, dtype=copy.dtype).numpy()


@pytest.mark.parametrize("compiled", [True, False])
def test_copies_are_full_in_a_step_and_empty_behind_it(compiled):
    model, runtime = wrapped()
    owners = owners_of(model, runtime)
    brought = BroughtWeights(model.weights, owners, runtime.placement)
    weights, before = model.trainable_weights, [weight.numpy() for weight in model.trainable_weights]
    seen, meanwhile = [], []

    def step():
        with brought.in_place():
            # As a thread sees them that makes a checkpoint ready meanwhile.
            meanwhile.append([weight.value.handle for weight in weights])
            brought.bring(runtime.strategy)
            assert not any(map(has_single_copy, weights))
            seen.append([copies_of(weight) for weight in weights])
            values = runtime.strategy.run(lambda: [weight.value + 0 for weight in weights])
            runtime.strategy.run(lambda: [weight.assign_add(weight.value) for weight in weights])
            brought.drop(runtime.strategy)
        return [runtime.strategy.experimental_local_results(value) for value in values]

    values = (traced(step) if compiled else step)()
    assert all(handle is weight.value.handle for handle, weight in zip(meanwhile[0], weights, strict=True))
    for of_replicas, value in zip(values, before, strict=True):
        np.testing.assert_array_equal([each.numpy() for each in of_replicas], [value, value])
    for weight, value, copies in zip(weights, before, seen[0], strict=True):
        assert has_single_copy(weight)
        np.testing.assert_array_equal(weight.numpy(), 2 * value)  # What the owner has made of it.
        owner = owners[id(weight)]
        assert copies[owner] is copies_of(weight)[0]
        assert held(copies[1 - owner]).size == 0


def test_the_same_weights_are_known_until_they_move():
    model, runtime = wrapped()
    owners = owners_of(model, runtime)
    brought = BroughtWeights(model.weights, owners, runtime.placement)
    assert brought.are_of(model.weights, owners)
    assert not brought.are_of(model.weights[1:], owners)
    assert brought.shard == "weights"
    kparallel.wrap(model, replicas=2, shard="optimizer")
    assert not brought.are_of(model.weights, owners)
    assert BroughtWeights(model.weights, owners, runtime.placement).shard == "optimizer"
