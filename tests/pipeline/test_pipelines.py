"""The law for pipelines: stages and microbatches compute what one device computes, on graphs that are no chains."""

import keras
import numpy as np
import pytest

from tests.choice import all_but
from tests.pairs import pair
from tests.pipeline import models as m

TOLERANCE = 1e-9


def by_hand(stages, microbatches):
    """GPipe with the backward passes in another order than any schedule of the package."""
    later = list(reversed(range(microbatches)))
    return [[f"{s}F{m}" for m in range(microbatches)] + [f"{s}B{m}" for m in later] for s in range(stages)]


SCCE = keras.losses.SparseCategoricalCrossentropy
# name: (model, data, loss)
MODELS = {
    "residual": (m.residual, m.images, SCCE),
    "u_net": (m.u_net, m.maps, lambda: "mse"),
    "encoder_decoder": (m.encoder_decoder, m.sentences, lambda: SCCE(from_logits=True)),
    "masked_two_headed": (m.masked_two_headed, m.numbers_and_tokens, lambda: {"out": SCCE(), "aux": "mse"}),
}
PLANS = {
    "1x2": {"replicas": 1, "stages": 2, "microbatches": 2},
    "1x4_1f1b": {"replicas": 1, "stages": 4, "microbatches": 3},
    "1x4_gpipe_always": {"replicas": 1, "stages": 4, "microbatches": 4, "schedule": "gpipe", "recompute": "always"},
    "2x2": {"replicas": 2, "stages": 2, "microbatches": 3, "recompute": "except_last"},
    "2x1_two_on_one_device": {"replicas": 2, "stages": 2, "microbatches": 2, "devices": ["CPU:0", "CPU:1"]},
    "3x1_microbatches": {"replicas": 3, "stages": 1, "microbatches": 2, "devices": ["CPU:0", "CPU:1", "CPU:2"]},
}
# Several stages on one device, dealt in turn; and a schedule of the user's own.
PLANS["1x4_interleaved"] = {
    "replicas": 1,
    "stages": 4,
    "microbatches": 4,
    "schedule": "interleaved",
    "devices": ["CPU:0", "CPU:1"],
}
PLANS["1x3_own_schedule"] = {"replicas": 1, "stages": 3, "microbatches": 3, "schedule": by_hand}
# Each model under two plans, each plan under at least one model; `full` crosses them.
COVER = [
    ("residual", "1x4_gpipe_always"),
    ("u_net", "1x4_1f1b"),
    ("u_net", "2x1_two_on_one_device"),
    ("encoder_decoder", "2x2"),
    ("encoder_decoder", "3x1_microbatches"),
    ("masked_two_headed", "1x4_1f1b"),
    ("masked_two_headed", "2x2"),
    ("residual", "1x2"),
    ("u_net", "1x4_interleaved"),
    ("residual", "1x3_own_schedule"),
]


def train(model, data, loss):
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=1.0), loss())
    x, y = data()
    history = model.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0, validation_split=0.2).history
    numbers = [*model.get_weights(), *(v.numpy() for v in model.optimizer.variables)]
    return numbers, history, model.predict(x, verbose=0)


def assert_equal(got, want):
    got_numbers, got_history, got_outputs = got
    want_numbers, want_history, want_outputs = want
    for one, other in zip(got_numbers, want_numbers, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)
    assert sorted(got_history) == sorted(want_history)
    for key, values in want_history.items():
        np.testing.assert_allclose(got_history[key], values, rtol=0, atol=TOLERANCE, err_msg=key)
    keras.tree.map_structure(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE), got_outputs, want_outputs
    )


def check(name, plan):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    build, data, loss = MODELS[name]
    plain, wrapped = pair(build, **PLANS[plan])
    assert_equal(train(wrapped, data, loss), train(plain, data, loss))


SLOW = [
    ("masked_two_headed", "1x4_1f1b"),
    ("u_net", "1x4_1f1b"),
    ("encoder_decoder", "3x1_microbatches"),
    ("masked_two_headed", "2x2"),
    ("residual", "1x2"),
    ("encoder_decoder", "2x2"),
    ("u_net", "2x1_two_on_one_device"),
    ("residual", "1x4_gpipe_always"),
]


@pytest.mark.parametrize(("name", "plan"), all_but(COVER, *SLOW))
def test_a_pipeline_equals_one_device(name, plan):
    check(name, plan)


@pytest.mark.full
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_under_every_plan(name, plan):
    check(name, plan)


@pytest.mark.full
def test_a_stock_application_in_four_stages_equals_one_device():
    """Without microbatches BatchNorm sees the same rows, so that MobileNetV2 has no exception to claim."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")

    def build():
        return keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=3)

    plain, wrapped = pair(build, replicas=1, stages=4, microbatches=1)
    rng = np.random.default_rng(0)
    data = rng.normal(size=(8, 32, 32, 3)), rng.integers(0, 3, 8)
    layers = [len(group.layers) for group in wrapped.plan.groups]
    assert sum(layers) == len(plain.layers) - 1 and min(layers) > 5
    for model in (plain, wrapped):
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy")
        model.fit(*data, batch_size=4, shuffle=False, verbose=0)
    for one, other in zip(wrapped.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)


def test_a_cut_by_measured_time_equals_one_device():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    x, _ = m.images()
    plain, wrapped = pair(m.residual, replicas=1, stages=3, microbatches=2, balance="time", sample=x[:4])
    assert_equal(train(wrapped, m.images, SCCE), train(plain, m.images, SCCE))
