"""A run that is interrupted within an epoch and goes on from its checkpoint ends as one that nothing disturbed."""

import json
import os
import random
import threading
import time
import zlib

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel.callbacks import Checkpoint
from kparallel.checkpoint import folder
from kparallel.compat.saving import WeightFile, write_weights
from kparallel.errors import CheckpointError, DataError
from kparallel.resume import snapshot
from tests.choice import some
from tests.equality.tolerances import FLOAT64

ROWS, EPOCHS = 22, 4
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(ROWS, 4)), RNG.normal(size=(ROWS, 1))
C = keras.callbacks


class Interrupted(Exception):
    """Stands for whatever ends a program."""


class Interrupt(C.Callback):
    """Ends training in an epoch, after a step of it."""

    def __init__(self, epoch, step):
        super().__init__()
        self.at, self.epoch = (epoch, step), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise Interrupted


class Reordering(keras.utils.PyDataset):
    """Reorders its rows after each epoch, by NumPy's generator, and adds noise to each batch from it."""

    def __init__(self):
        super().__init__()
        self.order = np.arange(ROWS)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        rows = self.order[4 * index : 4 * index + 4]
        return X[rows] + np.random.normal(size=(len(rows), 4)), Y[rows]

    def on_epoch_end(self):
        np.random.shuffle(self.order)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        rows = slice(4 * index, 4 * index + 4)
        return X[rows], Y[rows]


def shuffled():
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(ROWS, seed=3)


# The arguments of fit.
DATA = {
    "arrays": lambda: {"x": X, "y": Y, "batch_size": 4, "shuffle": False},
    "shuffled arrays": lambda: {"x": X, "y": Y, "batch_size": 4, "validation_split": 0.2},
    "a PyDataset": lambda: {"x": Batches()},
    "a PyDataset that reorders itself": lambda: {"x": Reordering()},
    "a dataset": lambda: {"x": shuffled().batch(4).prefetch(2), "validation_data": (X, Y)},
    "a dataset of unknown length": lambda: {"x": shuffled().filter(lambda x, y: x[0] > -1).batch(4)},
    "an endless dataset": lambda: {"x": shuffled().repeat().batch(4), "steps_per_epoch": 5},
    "arrays over several epochs": lambda: {"x": X, "y": Y, "batch_size": 4, "steps_per_epoch": 3},
}


def start(rate=0.3, **options):
    """A model with a layer that draws random numbers, on two replicas or as told."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")  # A test before may have set another.
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(6, activation="tanh"), keras.layers.Dropout(rate, seed=5), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model = kparallel.wrap(model, **({"replicas": 2} | options))
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse", metrics=["mae"])
    return model


def fit(model, data, *callbacks, **options):
    return model.fit(**DATA[data](), epochs=EPOCHS, verbose=0, callbacks=list(callbacks), **options).history


def assert_same(one, other):
    (model, history), (want, wanted) = one, other
    assert history.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(history[name], values, rtol=0, atol=FLOAT64, err_msg=name)
    for got, value in zip(model.variables, want.variables, strict=True):
        np.testing.assert_allclose(got.numpy(), value.numpy(), rtol=0, atol=FLOAT64, err_msg=got.path)


def undisturbed(data, **options):
    model = start(**options)
    return model, fit(model, data)


def disturbed(data, directory, *interruptions, every=2, **options):
    for at in interruptions:
        with pytest.raises(Interrupted):
            fit(start(**options), data, Checkpoint(directory, every_steps=every), Interrupt(*at))
    model = start(**options)
    return model, fit(model, data, Checkpoint(directory, every_steps=every))


def rewritten(directory, change):
    """Change what the checkpoints of a directory say of the training, as if they had been written so."""
    for path in directory.glob("checkpoint-*/training.json"):
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
        manifest = path.with_name("manifest.json")
        text = path.read_bytes()
        sizes = {path.name: {"bytes": len(text), "crc32": zlib.crc32(text)}}
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | sizes))


def as_of_another_process(directory):
    """Let the checkpoints of a directory be those of a process that ran before."""
    rewritten(directory, lambda training: training | {"process": "0" * len(training["process"])})


def settled():
    """Wait for what a training that failed still writes."""
    for thread in threading.enumerate():
        if thread.name.startswith("kparallel-checkpoint"):
            thread.join()


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("data", some(DATA, "a dataset"))
def test_a_run_goes_on_at_the_very_step(tmp_path, data):
    assert_same(disturbed(data, tmp_path, (1, 2), (2, 1)), undisturbed(data))


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("data", some(DATA, "a PyDataset"))
def test_the_number_of_replicas_may_change_within_an_epoch(tmp_path, data):
    """Without a mask: that of a dropout depends on how the rows are divided."""
    for at, replicas in [((1, 2), 3), ((2, 1), 2)]:
        with pytest.raises(Interrupted):
            model = start(rate=0, replicas=replicas)
            fit(model, data, Checkpoint(tmp_path, every_steps=2), Interrupt(*at))
    model = start(rate=0, replicas=1)
    history = fit(model, data, Checkpoint(tmp_path, every_steps=2))
    assert_same((model, history), undisturbed(data, rate=0, replicas=1))


def records(tmp_path):
    """The rows in a file, to be read in shards."""
    path = str(tmp_path / "rows")
    with tf.io.TFRecordWriter(path) as file:
        for row in np.hstack([X, Y]):
            file.write(tf.io.serialize_tensor(row).numpy())

    def parse(record):
        row = tf.ensure_shape(tf.io.parse_tensor(record, tf.float64), [5])
        return row[:4], row[4:]

    return kparallel.read_records([path], parse, batch_size=4)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_shards_of_another_number_of_workers_are_refused_within_an_epoch(tmp_path, monkeypatch, capfd):
    with pytest.raises(Interrupted):
        callbacks = [Checkpoint(tmp_path / "run", every_steps=1), Interrupt(0, 3)]
        start().fit(records(tmp_path), verbose=0, callbacks=callbacks)
    settled()
    rewritten(tmp_path / "run", lambda training: training | {"shards": 2})
    with pytest.raises(
        CheckpointError, match="Expected 2 workers, as wrote .* within an epoch, received 1: each reads"
    ):
        start().fit(records(tmp_path), verbose=0, callbacks=[Checkpoint(tmp_path / "run")])
    monkeypatch.setenv("KPARALLEL_ELASTIC", "1:2")
    start().fit(records(tmp_path), verbose=0, callbacks=[Checkpoint(tmp_path / "other", every_steps=1)])
    assert "because x is read in shards, one for each worker, and the number" in capfd.readouterr().err
    assert len(list((tmp_path / "other").glob("checkpoint-*"))) == 1


@pytest.mark.full
def test_rows_in_the_order_of_another_kind_of_start_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("KPARALLEL_ELASTIC", "1:2")
    fit(start(), "shuffled arrays", Checkpoint(tmp_path))
    monkeypatch.delenv("KPARALLEL_ELASTIC")
    as_of_another_process(tmp_path)
    with pytest.raises(CheckpointError, match="Expected rows as kparallel run deals them, .* in the order that Keras"):
        fit(start(), "shuffled arrays", Checkpoint(tmp_path))


@pytest.mark.full
def test_the_checkpoint_changes_no_number(tmp_path):
    model = start()
    history = fit(model, "shuffled arrays", Checkpoint(tmp_path, every_steps=1))
    assert_same((model, history), undisturbed("shuffled arrays"))


@pytest.mark.full
def test_several_batches_for_each_call_and_interruptions_at_all_places(tmp_path):
    def compiled(model):
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse", metrics=["mae"], steps_per_execution=2)
        return model

    want = compiled(start())
    wanted = fit(want, "a dataset")
    for at in [(0, 5), (1, 3), (3, 5)]:
        with pytest.raises(Interrupted):
            fit(compiled(start()), "a dataset", Checkpoint(tmp_path, every_steps=1), Interrupt(*at))
    model = compiled(start())
    assert_same((model, fit(model, "a dataset", Checkpoint(tmp_path, every_steps=1))), (want, wanted))


def test_shuffled_arrays_without_a_seed_go_on_in_their_order(tmp_path, monkeypatch):
    """No seed tells the order: it is drawn, and written down."""
    monkeypatch.setattr("kparallel.resume.resumable.has_global_seed", lambda: False)
    model = start()
    random.seed(7)
    history = fit(model, "shuffled arrays", Checkpoint(tmp_path / "whole", every_steps=100))
    at, seeds = [(1, 2), (2, 1)], [7, 8, 9]
    for seed, place in zip(seeds, at, strict=False):
        new = start()
        random.seed(seed)
        with pytest.raises(Interrupted):
            fit(new, "shuffled arrays", Checkpoint(tmp_path / "parts", every_steps=2), Interrupt(*place))
    resumed = start()
    random.seed(seeds[-1])
    assert_same((resumed, fit(resumed, "shuffled arrays", Checkpoint(tmp_path / "parts"))), (model, history))


UNREPEATABLE = {
    "shuffles without a seed": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(5).batch(4),
    "is made of a generator": lambda: tf.data.Dataset.from_generator(
        lambda: ((X[n : n + 4], Y[n : n + 4]) for n in range(0, 20, 4)),
        output_signature=(tf.TensorSpec([None, 4]), tf.TensorSpec([None, 1])),
    ),
    "has a random operation without a seed": lambda: (
        tf.data.Dataset.from_tensor_slices((X, Y))
        .batch(4)
        .map(lambda x, y: (x + tf.random.normal((), dtype=x.dtype), y))
    ),
    "in no fixed order": lambda: (
        tf.data.Dataset.from_tensor_slices((X, Y))
        .batch(4)
        .map(lambda x, y: (x, y), num_parallel_calls=2, deterministic=False)
    ),
}


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("reason", some(UNREPEATABLE, "shuffles without a seed"))
def test_data_that_cannot_be_repeated_are_named_and_resumed_at_an_epochs_begin(tmp_path, capfd, reason):
    model = start()
    tf.random.set_seed(None)
    data = UNREPEATABLE[reason]()
    model.fit(data, epochs=2, verbose=0, callbacks=[Checkpoint(tmp_path, every_steps=1)])
    told = capfd.readouterr().err
    assert "can only be resumed at the start of an epoch" in told and reason in told
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2
    again = start()
    as_of_another_process(tmp_path)
    history = again.fit(data, epochs=3, verbose=0, callbacks=[Checkpoint(tmp_path)]).history
    assert len(history["loss"]) == 3


def test_rows_in_another_order_are_refused(tmp_path):
    with pytest.raises(Interrupted):
        fit(start(), "arrays", Checkpoint(tmp_path, every_steps=1), Interrupt(0, 3))
    other = {"x": X[::-1], "y": Y[::-1], "batch_size": 4, "shuffle": False}
    with pytest.raises(DataError, match="the data come in another order"):
        start().fit(**other, epochs=2, verbose=0, callbacks=[Checkpoint(tmp_path)])


def test_a_checkpoint_resumes_under_another_plan_and_loads_in_plain_keras(tmp_path):
    with pytest.raises(Interrupted):
        fit(start(replicas=3), "arrays", Checkpoint(tmp_path, every_steps=1), Interrupt(1, 3))
    settled()
    newest = max(tmp_path.glob("checkpoint-*"))
    plain = kparallel.unwrap(start(replicas=1))
    plain.optimizer.build(plain.trainable_variables)
    plain.load_weights(newest / "model.weights.h5")
    assert 6 <= int(plain.optimizer.iterations) <= 6 + 4  # A write that takes long lets the next ones wait.
    model = start(replicas=1)
    fit(model, "arrays", Checkpoint(tmp_path))
    assert int(model.optimizer.iterations) == 6 * EPOCHS


def test_a_finished_run_trains_nothing_again_and_another_fit_needs_another_directory(tmp_path):
    model = start()
    wanted = fit(model, "arrays", Checkpoint(tmp_path))
    with pytest.raises(CheckpointError, match="a directory of its own for each fit"):
        fit(model, "arrays", Checkpoint(tmp_path))
    as_of_another_process(tmp_path)
    again = start()
    assert fit(again, "arrays", Checkpoint(tmp_path)) == wanted
    assert again.history.epoch == list(range(EPOCHS))
    assert int(again.optimizer.iterations) == 6 * EPOCHS
    assert len(fit(again, "arrays")["loss"]) == EPOCHS  # A fit without it begins as ever.


def test_broken_checkpoints_are_named_and_the_last_whole_one_is_used(tmp_path):
    with pytest.raises(Interrupted):
        fit(start(), "arrays", Checkpoint(tmp_path, every_steps=1, keep=3), Interrupt(1, 4))
    settled()
    oldest, *broken = sorted(tmp_path.glob("checkpoint-*"))
    (broken[0] / "model.weights.h5").write_bytes(b"half")
    weights = broken[1] / "model.weights.h5"
    weights.write_bytes(bytes(len(weights.read_bytes())))  # Of the right size.
    model = start()
    with pytest.warns(UserWarning, match=f"{oldest.name}, as newer checkpoints are broken: .*{broken[1].name}"):
        history = fit(model, "arrays", Checkpoint(tmp_path))
    assert_same((model, history), undisturbed("arrays"))
    for each in tmp_path.glob("checkpoint-*"):
        (each / "training.json").write_text("{")
    with pytest.raises(CheckpointError, match="a whole checkpoint in .*, received broken ones: "):
        fit(start(), "arrays", Checkpoint(tmp_path))


def test_another_model_is_refused(tmp_path):
    with pytest.raises(Interrupted):
        fit(start(), "arrays", Checkpoint(tmp_path, every_steps=1), Interrupt(1, 1))
    other = kparallel.wrap(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]), replicas=2)
    other.compile("sgd", "mse")
    with pytest.raises(CheckpointError, match="Expected the weights that .* was written with, 4, received 2"):
        fit(other, "arrays", Checkpoint(tmp_path))
    two = [Checkpoint(tmp_path / "both", every_steps=steps) for steps in (1, 100)]
    with pytest.raises(CheckpointError, match="a directory to which no other training writes"):
        fit(start(), "arrays", *two)
    with pytest.raises(CheckpointError, match="Expected one callback that resumes training"):
        fit(start(), "arrays", Checkpoint(tmp_path), C.BackupAndRestore(tmp_path / "other"))
    plain = kparallel.unwrap(start())
    with pytest.raises(CheckpointError, match=r"a model that kparallel.wrap returned"):
        fit(plain, "arrays", Checkpoint(tmp_path))


def test_what_was_compiled_and_counted_otherwise_is_refused(tmp_path):
    """Shapes are the same in each case; Keras would begin with new slots, or count in another epoch."""
    with pytest.raises(Interrupted):
        fit(start(), "arrays", Checkpoint(tmp_path, every_steps=1), Interrupt(1, 3))
    settled()

    def refused(error, words, optimizer=None, metrics="mae", rows=ROWS, steps_per_execution=1, **options):
        model = start()
        optimizer = optimizer or keras.optimizers.SGD(0.05, momentum=0.9)
        model.compile(optimizer, "mse", metrics=[metrics], steps_per_execution=steps_per_execution)
        data = {"x": X[:rows], "y": Y[:rows], "batch_size": 4, "shuffle": False} | options
        with pytest.raises(error, match=words):
            model.fit(**data, epochs=EPOCHS, verbose=0, callbacks=[Checkpoint(tmp_path)])

    refused(CheckpointError, "Expected the optimizer .*'SGD', 6.*, received .*'RMSprop', 6", keras.optimizers.RMSprop())
    refused(CheckpointError, "Expected the optimizer .*'SGD', 6.*, received .*'SGD', 2", keras.optimizers.SGD())
    refused(CheckpointError, "Expected the metrics .*'mae'.*, received .*'mse'", metrics="mse")
    refused(DataError, "Expected 6 batches of data, as when .*, received 5", batch_size=5)
    refused(DataError, "Expected 6 batches of data, as when .*, received 3", rows=12)
    refused(DataError, "Expected None as steps_per_epoch, as when .*, received 3", steps_per_epoch=3)
    refused(DataError, "Expected a steps_per_execution that divides ., the steps", steps_per_execution=5)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_optimizers_of_a_models_own_go_on_with_their_slots(tmp_path):
    class Two(keras.Model):
        """Trains by an optimizer that it holds, and leaves that of `compile` alone."""

        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Dense(1)
            self.own = keras.optimizers.Adam(0.05)

        def call(self, x):
            return self.inner(x)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x) - y) ** 2)
            weights = self.inner.trainable_variables
            self.own.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return {"loss": loss}

    def made():
        start()
        model = kparallel.wrap(Two(), replicas=2)
        model.compile("sgd")
        return model

    with pytest.raises(Interrupted):
        fit(made(), "arrays", Checkpoint(tmp_path, every_steps=1), Interrupt(1, 3))
    model, want = made(), made()
    assert_same((model, fit(model, "arrays", Checkpoint(tmp_path))), (want, fit(want, "arrays")))


def test_a_full_disk_costs_that_checkpoint_alone(tmp_path, monkeypatch):
    write, calls = snapshot.write_weights, []

    def fails_once(entries, path):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        write(entries, path)

    monkeypatch.setattr(snapshot, "write_weights", fails_once)
    model = start()
    with pytest.warns(UserWarning, match="No space left on device.*earlier checkpoints are as they were"):
        history = fit(model, "arrays", Checkpoint(tmp_path, keep=9))
    assert_same((model, history), undisturbed("arrays"))
    assert len(list(tmp_path.glob("checkpoint-*"))) == EPOCHS - 1 and len(list(tmp_path.glob(".*"))) == 0


@pytest.mark.parametrize("options", [{"every_steps": 0}, {"every_seconds": -1.0}, {"keep": 0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match="above 0"):
        Checkpoint("x", **options)
    with pytest.raises(ValueError, match="file system"):
        Checkpoint("gs://bucket/x")


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("place", some([0, 2, 4], 2))
def test_a_backup_is_whole_wherever_its_writing_ends(tmp_path, monkeypatch, place):
    """Keras's own writes weights and epoch one after the other: a kill in between trains an epoch twice."""
    sync, calls = os.fsync, []

    def kills(descriptor):
        calls.append(descriptor)
        if len(calls) == 5 * 2 + place + 1:  # Each backup makes five or six: three files, manifest, folder, directory.
            raise Killed
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", kills)
    with pytest.raises(Killed):
        fit(start(), "arrays", C.BackupAndRestore(tmp_path))
    monkeypatch.undo()
    model = start()
    history = fit(model, "arrays", C.BackupAndRestore(tmp_path, delete_checkpoint=False))
    want, wanted = undisturbed("arrays")
    done = EPOCHS - len(history["loss"])
    assert done in (1, 2)
    assert_same((model, history), (want, {name: values[done:] for name, values in wanted.items()}))
    assert sorted(path.name for path in tmp_path.iterdir())[-1] == f"checkpoint-{EPOCHS:08d}"


def test_a_backup_of_plain_keras_is_taken_and_deleted_at_the_end(tmp_path):
    plain = kparallel.unwrap(start())
    with pytest.raises(Interrupted):
        fit(plain, "arrays", C.BackupAndRestore(tmp_path), Interrupt(2, 1))
    assert (tmp_path / "latest.weights.h5").exists()
    model = start(replicas=1)
    assert len(fit(model, "arrays", C.BackupAndRestore(tmp_path))["loss"]) == EPOCHS - 2
    assert int(model.optimizer.iterations) == 6 * EPOCHS and not tmp_path.exists()


@pytest.mark.parametrize("jit", some([False, True], True))
def test_a_snapshot_is_not_changed_by_later_steps(jit):
    """Large enough that the update is one of XLA's programs; the snapshot shares memory with the variables."""
    model = kparallel.wrap(keras.Sequential([keras.Input((1100,)), keras.layers.Dense(1100)]), replicas=2)
    model.compile("adam", "mse", jit_compile=jit)
    rows = np.ones((8, 1100), "float32")
    model.fit(rows, rows, batch_size=4, verbose=0)
    file = WeightFile(model)
    for _ in range(2):  # The second time by the one call that was made.
        entries = [entry for entry in file.capture()[0] if entry.key]
        before = [entry.value.numpy() for entry in entries]
        model.fit(rows, rows, batch_size=4, epochs=2, verbose=0)
        for entry, value in zip(entries, before, strict=True):
            np.testing.assert_array_equal(entry.value.numpy(), value)
        file.prepare()
        moved = [entry.value.numpy() for entry in file.capture()[0] if entry.key]
        assert sum(not np.array_equal(one, other) for one, other in zip(moved, before, strict=True)) >= 5


class Own(keras.layers.Layer):
    """A layer that computes what it saves."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(4, 1))

    def call(self, x):
        return x @ self.kernel

    def save_own_variables(self, store):
        store["half"] = self.kernel.numpy() / 2

    def load_own_variables(self, store):
        self.kernel.assign(store["half"] * 2)


@pytest.mark.parametrize("layer", [Own, lambda: keras.layers.Dense(1)])
def test_a_captured_file_is_keras_own(tmp_path, layer):
    model = kparallel.wrap(keras.Sequential([keras.Input((4,)), layer()]), replicas=2)
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)
    write_weights(WeightFile(model).capture()[0], tmp_path / "captured.weights.h5")
    model.save_weights(tmp_path / "keras.weights.h5")

    def content(name):
        found = {}
        with h5py.File(tmp_path / f"{name}.weights.h5") as file:
            file.visititems(lambda path, item: found.update({path: dict(item.attrs)}))
            return found, {path: np.array(file[path]) for path in found if isinstance(file[path], h5py.Dataset)}

    (groups, values), (wanted_groups, wanted) = content("captured"), content("keras")
    assert groups == wanted_groups and values.keys() == wanted.keys() and len(values) >= 4
    for path, value in wanted.items():
        np.testing.assert_array_equal(values[path], value, err_msg=path)


@pytest.mark.full
def test_a_run_that_was_stopped_early_stays_stopped(tmp_path):
    class Stop(C.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    fit(start(), "arrays", Stop(), Checkpoint(tmp_path))
    as_of_another_process(tmp_path)
    model = start()
    fit(model, "arrays", Checkpoint(tmp_path))
    assert int(model.optimizer.iterations) == 6 * 2


@pytest.mark.full
def test_a_generator_over_several_epochs_goes_on_at_an_epochs_begin(tmp_path):
    def endless():
        while True:
            for begin in range(0, 20, 4):
                yield X[begin : begin + 4] + np.random.normal(), Y[begin : begin + 4] + np.random.normal()

    def train(*callbacks):
        model = start(replicas=1)
        checkpoint = Checkpoint(tmp_path, every_steps=1)
        return model.fit(endless(), steps_per_epoch=3, epochs=4, verbose=0, callbacks=[checkpoint, *callbacks]).history

    with pytest.raises(Interrupted):
        train(Interrupt(2, 1))
    assert len(train()["loss"]) == 4


def test_training_stands_still_for_a_small_part_of_what_a_save_takes(tmp_path):
    """Of 50 MB; one of ten, as others use the machine as well."""
    model = kparallel.wrap(keras.Sequential([keras.Input((2048,)), keras.layers.Dense(2048)]), replicas=2)
    model.compile("adam", "mse")
    rows = np.ones((8, 2048), "float32")
    model.fit(rows, rows, verbose=0)
    file, shares = snapshot.weight_file_of(model), []
    while min(shares, default=1.0) >= 0.15:
        assert len(shares) < 10, shares
        begun = time.perf_counter()
        files = snapshot.take_snapshot(file, {})
        blocked = time.perf_counter() - begun
        folder.FolderWriter(tmp_path, 2).write(files)
        shares.append(blocked / (time.perf_counter() - begun))
