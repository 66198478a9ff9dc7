"""`kparallel.plan` on real models: estimates, the search under a memory limit, and what it refuses."""

import keras
import numpy as np
import pytest

import kparallel
from kparallel.errors import PlanError
from tests.pairs import pair


def mlp(width=64, optimizer="adam"):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            *(keras.layers.Dense(width, activation="tanh", name=f"dense_{i}") for i in range(5)),
            keras.layers.Dense(1, name="head"),
        ],
        name="mlp",
    )
    model.compile(optimizer, "mse")
    return model


def peak(plan):
    return max(float(plan.memory(stage).total) for stage in range(plan.mesh.stages))


def test_a_search_takes_plain_data_parallelism_where_it_fits():
    plan = kparallel.plan(mlp(), batch_size=12, memory_per_device="1GB")
    assert (plan.mesh.replicas, plan.mesh.stages, plan.microbatches) == (4, 1, 1)
    assert "chosen: plain data parallelism fits" in str(plan)
    kparallel.wrap(mlp(), plan)


def test_a_search_cuts_a_model_that_is_too_big():
    model = mlp()
    needed = 4 * 4 * model.count_params()
    plan = kparallel.plan(model, batch_size=12, memory_per_device=0.6 * needed)
    assert plan.mesh.stages > 1
    assert peak(plan) <= 0.6 * needed
    plain, wrapped = pair(mlp, plan)
    x, y = np.ones((24, 8)), np.ones((24, 1))
    want = plain.fit(x, y, batch_size=12, shuffle=False, verbose=0).history
    got = wrapped.fit(x, y, batch_size=12, shuffle=False, verbose=0).history
    np.testing.assert_allclose(got["loss"], want["loss"], rtol=1e-5)
    with pytest.raises(PlanError, match="The closest miss is 1 replica x 4 stages"):
        kparallel.plan(model, batch_size=12, memory_per_device="1kB")


def test_no_more_microbatches_than_rows():
    assert kparallel.plan(mlp(), stages=2, batch_size=6).microbatches == 3
    assert kparallel.plan(mlp(), stages=2, batch_size=64).microbatches == 8
    with pytest.raises(PlanError, match="at most 3 microbatches for a batch of 6 rows"):
        kparallel.plan(mlp(), stages=2, batch_size=6, microbatches=4)


def test_options_that_were_given_stay():
    plan = kparallel.plan(mlp(), stages=2, recompute="always", batch_size=12, memory_per_device="1GB")
    assert (plan.mesh.stages, plan.recompute) == (2, "always")


def test_slots_are_those_of_the_compiled_optimizer():
    for optimizer, slots in [("sgd", 0), (keras.optimizers.SGD(0.1, momentum=0.9), 1), ("adam", 2), ("lion", 1)]:
        model = mlp(optimizer=optimizer)
        plan = kparallel.plan(model, stages=2)
        model.optimizer.build(model.trainable_variables)
        kept = sum(v.shape.num_elements() for v in model.optimizer.variables if v.shape.rank) * 4
        assert sum(float(plan.memory(stage).slots) for stage in range(2)) == kept == slots * 4 * model.count_params()


def test_frozen_layers_have_no_slots():
    model = mlp()
    model.layers[1].trainable = False
    model.compile("adam", "mse")
    plan = kparallel.plan(model, stages=2)
    model.optimizer.build(model.trainable_variables)
    kept = sum(v.shape.num_elements() for v in model.optimizer.variables if v.shape.rank) * 4
    assert sum(float(plan.memory(stage).slots) for stage in range(2)) == kept
    assert sum(group.weight_bytes for group in plan.groups) == 4 * model.count_params()


def test_what_a_search_refuses():
    with pytest.raises(PlanError, match="batch_size along with memory_per_device"):
        kparallel.plan(mlp(), memory_per_device="1GB")
    with pytest.raises(PlanError, match="Expected a size such as '8GB'"):
        kparallel.plan(mlp(), batch_size=12, memory_per_device="much")
    with pytest.raises(PlanError, match="received a cut by hand as well"):
        kparallel.plan(mlp(), stages=["dense_2"], batch_size=12, memory_per_device="1GB")


def test_a_cut_goes_around_calls_that_share_a_state():
    drop, inputs = keras.layers.Dropout(0.5, name="drop"), keras.Input((4,))
    x = keras.layers.Dense(64, name="wide")(drop(keras.layers.Dense(64, name="between")(drop(inputs))))
    for index in range(3):
        x = keras.layers.Dense(2, name=f"dense_{index}")(x)
    plan = kparallel.plan(keras.Model(inputs, x), stages=4, replicas=1)
    assert plan.groups[0].layers[:3] == ("drop", "between", "wide")[: len(plan.groups[0].layers)]
    assert all("drop" not in group.layers for group in plan.groups[1:])
