"""A plan from the user's options."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kparallel.errors import PlanError
from kparallel.model.decide import check_microbatches, check_plan, decide, sample_inputs
from kparallel.model.options import Options
from kparallel.stage.graph import open_graph


def chain(units=(4, 4), name="chain"):
    layers = [keras.layers.Dense(each, name=f"dense_{index}") for index, each in enumerate(units)]
    return keras.Sequential([keras.Input((4,)), *layers], name=name)


def test_four_microbatches_for_each_stage_but_no_more_than_a_share_has_rows():
    options = Options(stages=2, devices=["CPU:0", "CPU:1"])
    assert decide(chain(), options).microbatches == 8
    assert decide(chain(), Options(stages=2, devices=["CPU:0", "CPU:1"], batch_size=5)).microbatches == 5
    assert decide(chain(), Options(devices=["CPU:0", "CPU:1"])).microbatches == 1


def test_costs_by_parameters_or_by_work_move_the_cut():
    # Parameters 20, 80 and 68 for 4, 16 and 4 units: the cheapest largest part is [20, 80] and [68].
    plan = decide(chain((4, 16, 4)), Options(stages=2, balance="parameters", devices=["CPU:0", "CPU:1"]))
    assert [group.parameters for group in plan.groups] == [100, 68]


def test_a_plan_for_other_weights_is_refused():
    plan = decide(chain(), Options(devices=["CPU:0"]))
    check_plan(plan, chain())
    for other in (chain((4, 5)), chain(name="other")):
        with pytest.raises(PlanError, match="Expected a plan made for model"):
            check_plan(plan, other)


def test_a_synchronized_norm_sees_one_microbatch():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.BatchNormalization(synchronized=True), keras.layers.Dense(1)]
    )
    check_microbatches(model, decide(model, Options(devices=["CPU:0"])))
    with pytest.raises(PlanError, match="Expected one microbatch for layer"):
        check_microbatches(model, decide(model, Options(devices=["CPU:0"], microbatches=2)))


def test_times_are_measured_on_the_users_rows_or_on_zeros():
    graph = open_graph(chain())
    assert [tuple(each.shape) for each in sample_inputs(graph, None)] == [(32, 4)]
    (given,) = sample_inputs(graph, np.ones((3, 4)))
    assert given.shape == (3, 4) and float(tf.reduce_sum(given)) == 12.0
