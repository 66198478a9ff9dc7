"""Keras's own callbacks, as they are: the decisions and numbers that they take from a plain model."""

import csv

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import kparallel
from tests.equality import models as m
from tests.equality.cases import SCCE
from tests.equality.measure import use
from tests.equality.plans import PLANS, plans
from tests.equality.tolerances import FLOAT64

C = keras.callbacks
EPOCHS = 6
# Both by default; data parallelism alone and a pipeline alone besides.
SOME_PLANS = plans("3x1", "1x2_1f1b", "2x2_gpipe_recompute")


@pytest.fixture(autouse=True)
def _double():
    use("float64")


def start():
    keras.utils.set_random_seed(0)
    return m.mlp()


def fit(model, *callbacks, epochs=EPOCHS, rate=0.1, data=None):
    if not model.compiled:
        model.compile(keras.optimizers.SGD(rate, momentum=0.5), SCCE, metrics=["accuracy"])
    x, y = data or m.numbers()
    return model.fit(
        x, y, batch_size=5, epochs=epochs, validation_split=0.3, shuffle=False, verbose=0, callbacks=list(callbacks)
    ).history


def assert_same(got, want):
    assert sorted(got) == sorted(want)
    for key, values in want.items():
        np.testing.assert_allclose(got[key], values, rtol=0, atol=FLOAT64, err_msg=key)


def assert_same_state(got, want):
    for one, other in zip(
        [*got.weights, *got.optimizer.variables], [*want.weights, *want.optimizer.variables], strict=True
    ):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=FLOAT64, err_msg=other.path)


def both(plan, make, **arguments):
    """Fit the plain and the wrapped model with a callback of each one's own; return models, callbacks, histories."""
    models = [start(), kparallel.wrap(start(), **PLANS[plan])]
    callbacks = [make("plain"), make("wrapped")]
    histories = [fit(model, callback, **arguments) for model, callback in zip(models, callbacks, strict=True)]
    assert_same(histories[1], histories[0])
    assert_same_state(models[1], models[0])
    return models, callbacks, histories


@pytest.mark.parametrize("plan", SOME_PLANS)
def test_early_stopping_stops_at_the_same_epoch_with_the_same_best_weights(plan):
    def make(_):
        return C.EarlyStopping("val_accuracy", patience=1, restore_best_weights=True)

    _, callbacks, histories = both(plan, make, epochs=12)
    assert len(histories[0]["loss"]) < 12
    one, other = callbacks
    assert (one.stopped_epoch, one.best_epoch) == (other.stopped_epoch, other.best_epoch)
    assert one.best == pytest.approx(other.best, abs=FLOAT64)


@pytest.mark.parametrize("plan", SOME_PLANS)
def test_the_learning_rate_is_reduced_at_the_same_epochs(plan):
    _, _, histories = both(plan, lambda _: C.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.05))
    assert len(set(histories[0]["learning_rate"])) > 1


@pytest.mark.full
@pytest.mark.parametrize("plan", SOME_PLANS)
def test_the_learning_rate_follows_a_function(plan):
    _, _, histories = both(plan, lambda _: C.LearningRateScheduler(lambda epoch, rate: rate * 0.7))
    np.testing.assert_allclose(histories[1]["learning_rate"], 0.1 * 0.7 ** np.arange(1, EPOCHS + 1), rtol=1e-6)


def scalars(folder):
    """Return every scalar that TensorBoard finds in a folder: tag, step and value."""
    found = {}
    for part in ("train", "validation"):
        events = EventAccumulator(str(folder / part), size_guidance={"tensors": 0})
        events.Reload()
        for tag in events.Tags()["tensors"]:
            if tag.startswith(("epoch_", "batch_", "evaluation_")):
                found[part, tag] = [
                    (event.step, float(np.frombuffer(event.tensor_proto.tensor_content, "float32")[0]))
                    if event.tensor_proto.tensor_content
                    else (event.step, float(event.tensor_proto.float_val[0]))
                    for event in events.Tensors(tag)
                ]
    return found


@pytest.mark.full
def test_tensorboard_writes_the_same_scalars(tmp_path):
    both("2x2_gpipe_recompute", lambda name: C.TensorBoard(tmp_path / name, update_freq=1, histogram_freq=1))
    got, want = scalars(tmp_path / "wrapped"), scalars(tmp_path / "plain")
    assert {tag for _, tag in want} >= {"epoch_loss", "epoch_accuracy", "batch_loss"}
    assert sorted(got) == sorted(want)
    for key, values in want.items():
        np.testing.assert_allclose(got[key], values, atol=1e-6, err_msg=str(key))


@pytest.mark.parametrize("plan", SOME_PLANS)
def test_the_best_model_is_kept(plan, tmp_path):
    def make(name):
        (tmp_path / name).mkdir()
        return C.ModelCheckpoint(tmp_path / name / "{epoch:02d}.keras", "val_accuracy", save_best_only=True, mode="max")

    _, callbacks, _ = both(plan, make)
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("plain", "wrapped")]
    assert names[0] == names[1] and 0 < len(names[0]) < EPOCHS
    for name in names[0]:
        plain, wrapped = (keras.models.load_model(tmp_path / kind / name) for kind in ("plain", "wrapped"))
        assert type(wrapped) is type(plain)
        assert_same_state(wrapped, plain)


@pytest.mark.full
def test_weights_are_kept_every_few_batches(tmp_path):
    def make(name):
        (tmp_path / name).mkdir()
        return C.ModelCheckpoint(tmp_path / name / "{epoch}-{batch}.weights.h5", save_weights_only=True, save_freq=2)

    both("2x1", make, epochs=2)
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("plain", "wrapped")]
    assert names[0] == names[1] and len(names[0]) == 3
    for name in names[0]:
        one, other = start(), start()
        one.load_weights(tmp_path / "plain" / name)
        other.load_weights(tmp_path / "wrapped" / name)
        for got, want in zip(other.get_weights(), one.get_weights(), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("plan", SOME_PLANS)
def test_the_same_rows_are_logged(plan, tmp_path):
    both(plan, lambda name: C.CSVLogger(tmp_path / f"{name}.csv"))
    want, got = (list(csv.reader((tmp_path / f"{name}.csv").read_text().splitlines())) for name in ("plain", "wrapped"))
    assert got[0] == want[0] and len(got) == len(want) == EPOCHS + 1
    np.testing.assert_allclose(np.array(got[1:], "float64"), np.array(want[1:], "float64"), rtol=0, atol=FLOAT64)


class Interrupted(Exception):
    """Stands for whatever ends a program."""


class Interrupt(C.Callback):
    """Ends training in an epoch, behind one of its batches and all that callbacks do after it."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.at, self.epoch = (epoch, batch), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch - 1) == self.at:
            raise Interrupted


def resumed(new, backup, frequency, at):
    """Train until the interruption, then go on in a new model; return the latter and its history."""
    with pytest.raises(Interrupted):
        fit(new(), C.BackupAndRestore(backup, frequency), Interrupt(*at))
    model = new()
    history = fit(model, C.BackupAndRestore(backup, frequency))
    assert 0 < len(history["loss"]) < EPOCHS
    return model, history


def test_an_interrupted_run_resumes_and_equals_an_uninterrupted_one(tmp_path):
    plain = start()
    fit(plain)
    model, _ = resumed(lambda: kparallel.wrap(start(), **PLANS["3x1"]), tmp_path / "backup", "epoch", (3, 1))
    assert_same_state(model, plain)


@pytest.mark.full
def test_a_backup_by_batches_resumes_as_plain_keras_does(tmp_path):
    """Plain Keras begins the interrupted epoch anew with the weights of its middle."""
    want, wanted = resumed(start, tmp_path / "plain", 2, (2, 1))
    model, history = resumed(lambda: kparallel.wrap(start(), **PLANS["1x2_1f1b"]), tmp_path / "wrapped", 2, (2, 1))
    assert_same(history, wanted)
    assert_same_state(model, want)


@pytest.mark.parametrize("plan", SOME_PLANS)
def test_not_a_number_ends_training_at_the_same_batch(plan):
    x, y = m.numbers()
    x[7] = np.nan  # The second batch.
    steps = []

    class Count(C.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps[-1] += 1

    for model in (start(), kparallel.wrap(start(), **PLANS[plan])):
        steps.append(0)
        fit(model, C.TerminateOnNaN(), Count(), data=(x, y))
    assert steps == [2, 2]
