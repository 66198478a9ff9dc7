"""A forecast of a Keras model: the seconds of its calls on a cluster."""

import keras
import pytest

from kparallel.errors import ModelError, PlanError
from kparallel.forecast.hardware import Hardware, Link
from kparallel.model.forecasting import forecast_model
from kparallel.model.options import Options

CLUSTER = Hardware("one", 1, 1e9, {"float32": 1e9, "float64": 1e8}, 1.0, Link(1e9, 0.0))


def build():
    return keras.Sequential([keras.Input((10,)), keras.layers.Dense(50, use_bias=False)])


def test_each_layer_computes_at_the_rate_of_its_dtype():
    model = build()
    for dtype in ("float32", "float64"):
        model.add(keras.layers.Dense(50, use_bias=False, dtype=dtype))
    found = forecast_model(model, CLUSTER, None, Options(batch_size=8, shard=None), None)
    # Two operations for each weight, and one for each number of the result; three times that with the backward pass.
    narrow, wide = 1050 + 5050, 5050
    assert found.best[0].time.compute == pytest.approx(3 * 8 * (narrow / 1e9 + wide / 1e8))


def test_a_builder_gets_no_memory_for_weights():
    made = []

    def builder():
        made.append(build())
        return made[0]

    forecast_model(builder, CLUSTER, None, Options(batch_size=8, shard=None), None)
    assert [weight._value for weight in made[0].weights] == [None]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "Expected batch_size along with cluster"),
        ({"batch_size": 8, "memory_per_device": "8GB"}, "received memory_per_device as well"),
        ({"batch_size": 8, "stages": ["head"]}, "received a cut by hand as well"),
        ({"batch_size": 8, "balance": "parameters"}, "received 'parameters'"),
    ],
)
def test_what_does_not_go_with_a_cluster_is_refused(options, told):
    with pytest.raises(PlanError, match=told):
        forecast_model(build(), CLUSTER, None, Options(**options), None)


def test_a_builder_of_something_else_is_refused():
    with pytest.raises(ModelError, match="a builder that returns a keras.Model, received int"):
        forecast_model(lambda: 3, CLUSTER, None, Options(batch_size=8), None)
