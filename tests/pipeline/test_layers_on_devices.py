"""A model that is no graph: its layers lie on devices by name, forward, backward and slots, without a pipeline."""

import re
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

import kparallel
from kparallel import errors
from tests.pairs import pair

DEVICE = {"first": "CPU:1", "second": "CPU:2", "last": "CPU:1"}


@keras.saving.register_keras_serializable("kparallel_tests")
class Recursive(keras.Model):
    """Calls a layer as often as a number in Python says: no graph."""

    def __init__(self, times=2, **kwargs):
        super().__init__(**kwargs)
        self.times = times
        self.first = keras.layers.Dense(6, activation="tanh", name="first")
        self.second = keras.layers.Dense(6, activation="tanh", name="second")
        self.last = keras.layers.Dense(2, name="last")

    def call(self, x):
        x = self.first(x)
        for _ in range(self.times):
            x = x + self.second(x)
        return self.last(x)

    def get_config(self):
        return super().get_config() | {"times": self.times}


def built():
    model = Recursive()
    model(np.zeros((1, 4)))
    return model


STAGES = {"CPU:1": ["first", "last"], "CPU:2": ["second"]}
X, Y = np.random.default_rng(0).normal(size=(8, 4)), np.random.default_rng(1).normal(size=(8, 2))


def test_layers_slots_forward_and_backward_lie_on_their_devices_and_equal_one_device():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    plain, wrapped = pair(built, stages=STAGES)
    for model in (plain, wrapped):
        model.compile(keras.optimizers.Adam(0.01), "mse")
    context.enable_run_metadata()
    try:
        wrapped.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        metadata = context.export_run_metadata()
    finally:
        context.disable_run_metadata()
    plain.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)  # Last, so that no graph of it is recorded.
    for one, other in zip(wrapped.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)
    for variable in [*wrapped.variables, *wrapped.optimizer.variables]:
        name = re.search(r"(first|second|last)", variable.path)
        if name:
            assert variable.value.values[0].device.endswith(DEVICE[name[1]]), variable.path
    nodes = [node for function in metadata.function_graphs for node in function.post_optimization_graph.node]
    seen = Counter()
    for node in nodes:
        # TensorFlow numbers a scope that is entered again.
        match = re.search(r"/(first|second|last)(?:_\d+)?/(?:.*/)?(MatMul|Tanh|TanhGrad|BiasAddGrad)", node.name)
        if match:
            assert node.device.endswith(DEVICE[match[1]]), (node.name, node.device)
            seen[match[1], "backward" if "gradient_tape" in node.name else "forward"] += 1
    assert set(seen) == {(layer, kind) for layer in DEVICE for kind in ("forward", "backward")}, len(nodes)
    np.testing.assert_allclose(wrapped(X), plain(X), atol=1e-12)
    assert tf.is_tensor(wrapped(X))


def test_microbatches_are_refused_and_the_way_out_is_said():
    with pytest.raises(errors.PlanError, match=r"cannot|not pipelined.*keras\.Model\(inputs, outputs\)"):
        kparallel.wrap(built(), stages=STAGES, microbatches=2)
    with pytest.raises(errors.PlanError, match="Call it on a few rows"):
        kparallel.wrap(Recursive(), stages=STAGES)
    with pytest.raises(errors.PlanError, match="Did you mean 'second'"):
        kparallel.wrap(built(), stages={"CPU:0": ["first", "last"], "CPU:1": ["secnd"]})
