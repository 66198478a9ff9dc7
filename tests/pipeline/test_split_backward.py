"""Split backward passes beside what cannot be split, in an order of the user's own, and where stages share weights."""

import keras
import numpy as np
import pytest

from kparallel.engine.executor import Executor
from tests.assertions import assert_fit_alike, doubles
from tests.pairs import pair
from tests.pipeline import models as m

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(11, 4)), RNG.normal(size=(11, 1))
FIT = {"x": X, "y": Y, "batch_size": 6, "epochs": 2}


def chain(norm=None):
    layers = [keras.layers.Dense(width, activation="tanh") for width in (5, 4, 1)]
    norms = [] if norm is None else [norm()]
    return keras.Sequential([keras.Input((4,)), layers[0], *norms, *layers[1:]])


@pytest.fixture
def kinds(monkeypatch):
    """The kinds of the actions that are carried out."""
    found = set()
    run = Executor.run
    monkeypatch.setattr(
        Executor, "run", lambda self, order, x: [found.update(a.kind for a in order), run(self, order, x)][1]
    )
    return found


def weights_last(stages, microbatches):
    """GPipe, with the gradients of the weights after everything else, the last microbatch's first."""
    order = [f"F{i}" for i in range(microbatches)] + [f"B{i}" for i in range(microbatches)]
    order += [f"W{i}" for i in reversed(range(microbatches))]
    return [[f"{s}{action}" for action in order] for s in range(stages)]


def test_an_own_schedule_may_split_backward_passes(kinds):
    doubles()
    plain, wrapped = pair(chain, replicas=1, stages=2, microbatches=3, schedule=weights_last)
    assert_fit_alike(wrapped, plain, lambda model: FIT, lambda: {"optimizer": "adam", "loss": "mse"})
    assert kinds == {"F", "B", "W"}


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("schedule", ["1f1b", "zb_h1"])
def test_a_head_that_no_loss_reads_any_more_is_left_by_its_momentum(schedule):
    """A function gets zeros for the cotangents that it lacks, and a gradient of zero is not the same as none."""
    doubles()

    def heads():
        x = keras.layers.Dense(3)(inputs := keras.Input((4,)))
        a, b = keras.layers.Dense(1, name="a")(x), keras.layers.Dense(1, activation="sigmoid", name="b")(x)
        return keras.Model(inputs, {"a": a, "b": b})

    models = pair(heads, replicas=1, stages=2, microbatches=2, schedule=schedule)
    for model in models:
        optimizer = keras.optimizers.Adam(0.1)
        for losses in ({"a": "mse", "b": "binary_crossentropy"}, {"a": "mse"}):
            model.compile(optimizer, losses)
            model.fit(X[:6], dict.fromkeys(losses, Y[:6]), batch_size=6, verbose=0)
    for plain, wrapped in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(wrapped, plain, rtol=0, atol=1e-12)


@pytest.mark.full
def test_a_stage_with_synchronized_batch_norm_computes_all_gradients_in_its_first_part(kinds):
    doubles()

    def build():
        return chain(lambda: keras.layers.BatchNormalization(synchronized=True))

    plain, wrapped = pair(build, replicas=2, stages=2, microbatches=1, schedule="zb_h1")
    assert_fit_alike(wrapped, plain, lambda model: FIT, lambda: {"optimizer": "adam", "loss": "mse"})
    assert kinds == {"F", "B", "W"}


@pytest.mark.full
@pytest.mark.parametrize("recompute", ["never", "always"])
def test_weights_that_stages_share_and_lookups(recompute):
    doubles()
    x, y = m.sentences()
    plain, wrapped = pair(
        m.encoder_decoder, replicas=2, stages=2, microbatches=2, schedule="zb_h1", recompute=recompute
    )

    def compiling():
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return {"optimizer": keras.optimizers.Adam(0.01, global_clipnorm=0.5), "loss": loss}

    fit = {"x": x, "y": y, "batch_size": 5, "epochs": 2}
    assert_fit_alike(wrapped, plain, lambda model: fit, compiling)
