"""A model as a sequence of stages: what each reads and writes, and how inputs and outputs are numbered."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kparallel.errors import PlanError
from kparallel.stage.graph import open_graph
from kparallel.stage.pipeline import cut_into_stages, one_stage
from kparallel.stage.value import Value

L = keras.layers


def skipping():
    x = keras.Input((2,), name="x")
    first = L.Dense(3, name="first")(x)
    middle = L.Dense(3, name="middle")(first)
    return keras.Model({"x": x}, {"sum": L.Add(name="add")([first, middle]), "middle": middle}, name="skipping")


def cut(model, *groups):
    return cut_into_stages(model, open_graph(model), groups)


def run(pipeline, x):
    """Return the outputs of all stages, one after another."""
    values = pipeline.feed(x)
    for stage in pipeline.stages:
        inputs = [values[number] for number in stage.reads]
        weights, state = [v.value for v in stage.weights], [v.value for v in stage.state.variables]
        values |= dict(zip(stage.writes, stage.forward(weights, state, inputs, False).outputs, strict=True))
    return pipeline.fetch(values)


def test_a_value_goes_to_every_stage_that_reads_it():
    pipeline = cut(skipping(), [0], [1], [2])
    assert [(stage.reads, stage.writes) for stage in pipeline.stages] == [((0,), (1,)), ((1,), (2,)), ((1, 2), (3,))]
    assert [[v.path for v in stage.owned] for stage in pipeline.stages[:2]] == [
        ["first/kernel", "first/bias"],
        ["middle/kernel", "middle/bias"],
    ]


def test_stages_compute_what_the_model_does_in_its_structure():
    model, x = skipping(), np.ones((4, 2), "float32")
    found, expected = run(cut(model, [0, 1], [2]), {"x": x}), model({"x": x})
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("x", [[1.0, 2.0, 3.0], np.array([[1], [2]], "int64")])
def test_inputs_get_the_rank_and_dtype_that_keras_gives_them(x):
    model = keras.Sequential([keras.Input((1,)), L.Dense(1), L.Dense(1)])
    (value,) = cut(model, [0], [1]).feed(tf.convert_to_tensor(x)).values()
    assert value.tensor.shape == (len(x), 1) and value.tensor.dtype == tf.float32


def test_inputs_are_matched_by_name():
    one, other = keras.Input((1,), name="one"), keras.Input((2,), name="other")
    model = keras.Model([one, other], L.Dense(1)(L.Concatenate()([one, other])))
    fed = cut(model, [0], [1]).feed({"other": tf.ones((3, 2)), "one": tf.zeros((3, 1))})
    assert {number: value.tensor.shape[1] for number, value in fed.items()} == {0: 1, 1: 2}


def test_a_model_in_one_stage_takes_and_gives_structures():
    pipeline = one_stage(skipping())
    x = {"x": tf.ones((4, 2))}
    assert pipeline.feed(x) == {0: Value(x)}
    assert run(pipeline, x).keys() == {"sum", "middle"}
    assert pipeline.by_number(x, [1, 2]) == {1: [1, 2]}


def test_gradients_of_an_output_that_is_returned_twice_add_up():
    x = keras.Input((2,))
    inner = L.Dense(2)(x)
    pipeline = cut(keras.Model(x, [inner, L.Dense(1)(inner), inner]), [0], [1])
    assert pipeline.by_number(None, [1, 2, 10]) == {1: [11], 2: [2]}
    assert pipeline.by_number(None, [None, 2, 10]) == {1: [10], 2: [2]}


def test_a_layer_with_state_stays_in_one_stage():
    x = keras.Input((2,))
    norm = L.BatchNormalization(name="norm")
    model = keras.Model(x, norm(L.Dense(2)(norm(x))))
    with pytest.raises(PlanError, match="'norm/moving_mean' in stages 0 and 1"):
        cut(model, [0, 1], [2])
    assert len(cut(model, [0, 1, 2]).stages) == 1
