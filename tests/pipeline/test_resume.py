"""Files cross plans: what one plan wrote, another resumes, slots included, as if nothing had happened."""

import keras
import numpy as np
import pytest

import kparallel
from tests.choice import all_but, some
from tests.pipeline import models as m

ONE_DEVICE = None
PLANS = {
    "pipeline": {"replicas": 1, "stages": 4, "microbatches": 2},
    "hybrid": {"replicas": 2, "stages": 2, "microbatches": 2, "recompute": "always"},
    "data": {"replicas": 3},
    "plain": ONE_DEVICE,
}


def under(plan, model):
    return model if PLANS[plan] is None else kparallel.wrap(model, **PLANS[plan])


def train(model, epochs, first=0, callbacks=()):
    x, y = m.images()
    return model.fit(
        x, y, batch_size=6, epochs=epochs, initial_epoch=first, shuffle=False, verbose=0, callbacks=list(callbacks)
    )


class Interrupted(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise Interrupted


@pytest.fixture
def uninterrupted():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    start = m.residual()
    model = keras.models.clone_model(start)
    model.set_weights(start.get_weights())
    for each in (start, model):
        each.compile(keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy")
    train(model, 4)
    return start, model


def assert_same(got, want):
    assert type(got.optimizer) is type(want.optimizer)
    for one, other in zip(
        [*got.variables, *got.optimizer.variables], [*want.variables, *want.optimizer.variables], strict=True
    ):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=1e-9, err_msg=one.path)


@pytest.mark.parametrize(
    ("first", "then"),
    some([("pipeline", "hybrid"), ("hybrid", "plain"), ("plain", "pipeline")], ("hybrid", "plain")),
)
def test_a_model_file_resumes_under_another_plan(tmp_path, uninterrupted, first, then):
    start, want = uninterrupted
    model = under(first, start)
    train(model, 2)
    model.save(tmp_path / "model.keras")
    resumed = under(then, keras.models.load_model(tmp_path / "model.keras"))
    train(resumed, 4, first=2)
    assert_same(resumed, want)


@pytest.mark.parametrize(("first", "then"), all_but([("hybrid", "data"), ("data", "pipeline")], ("hybrid", "data")))
def test_a_backup_resumes_under_another_plan(tmp_path, uninterrupted, first, then):
    start, want = uninterrupted
    model = under(first, start)
    with pytest.raises(Interrupted):
        train(model, 4, callbacks=[keras.callbacks.BackupAndRestore(tmp_path), Interrupt()])
    resumed = under(then, m.residual())
    resumed.compile(keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy")
    train(resumed, 4, callbacks=[keras.callbacks.BackupAndRestore(tmp_path)])
    assert_same(resumed, want)
