"""What goes wrong on one worker only, one case after another: each worker notes what it raised.

Usage: kparallel run -n 2 --devices-per-worker 2 disagree.py FOLDER
"""

import json
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import kparallel
from kparallel.cluster import read_cluster

INDEX = read_cluster().index
FOLDER = Path(sys.argv[1])
X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")


def net(units=3, optimizer="sgd", **options):
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(units, activation="tanh")(inputs)
    model = kparallel.wrap(keras.Model(inputs, keras.layers.Dense(1)(hidden)), **options)
    model.compile(optimizer, "mse")
    return model


def fit(model, x=X, **arguments):
    y = x[:, :1] if isinstance(x, np.ndarray) else None
    return model.fit(x, y, **{"batch_size": None if y is None else 4, "epochs": 2, "verbose": 0, **arguments})


class Fails(keras.callbacks.Callback):
    def __init__(self, worker):
        super().__init__()
        self.worker = worker

    def on_epoch_end(self, epoch, logs=None):
        if self.worker == INDEX:
            raise ArithmeticError("my own fault")


class OnOne(keras.callbacks.Callback):
    """Changes the model at one hook, on worker 1 only."""

    def __init__(self, hook, change):
        super().__init__()
        self.changes = {hook: change} if INDEX else {}

    def on_epoch_begin(self, epoch, logs=None):
        self.changes.get("epoch_begin", id)(self.model)

    def on_train_batch_end(self, batch, logs=None):
        self.changes.get("batch_end", id)(self.model)

    def on_epoch_end(self, epoch, logs=None):
        self.changes.get("epoch_end", id)(self.model)


def late_rows():
    """Rows of which the first batch's are equal."""
    y = X[:, :1] + INDEX * (np.arange(16) == 15)[:, None]
    return net().fit(X, y, batch_size=4, shuffle=False, verbose=0, epochs=2)


def halve_rate(model):
    model.optimizer.learning_rate = 0.005


def stop(model):
    model.stop_training = True


def zero_weights(model):
    model.set_weights([0 * weight for weight in model.get_weights()])


def dataset(rows, seed=0):
    data = tf.data.Dataset.from_tensor_slices((X[:rows], X[:rows, :1]))
    return data.shuffle(16, seed=seed).batch(4)


def unsized(batches):
    def read():
        for start in range(batches):
            yield X[start : start + 4], X[start : start + 4, :1]

    return tf.data.Dataset.from_generator(read, output_signature=(tf.TensorSpec([None, 4]), tf.TensorSpec([None, 1])))


def another_class():
    return kparallel.wrap(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])) if INDEX else net()


def compiled(optimizer="sgd", loss="mse"):
    model = net()
    model.compile(optimizer, loss)
    return model


def checkpoint_nowhere():
    # Even root cannot make files there.
    return fit(net(), callbacks=[keras.callbacks.ModelCheckpoint("/proc/kparallel/best.keras")])


def full_disk():
    return fit(net(), callbacks=[keras.callbacks.CSVLogger("/dev/full")])


class Slow(keras.callbacks.Callback):
    """Worker 1 stands still in one step until the other has said so."""

    def on_train_batch_begin(self, batch, logs=None):
        deadline = time.monotonic() + 30
        while INDEX == 1 and batch == 2 and not (FOLDER / "stall.txt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)


def stall():
    """What worker 0 sees."""
    messages = []

    def report(message):
        messages.append(message)
        if INDEX == 0 and "nor has worker 1" in message:
            (FOLDER / "stall.txt").write_text(message)

    model = net()
    fit(model, epochs=1)
    watchdog = kparallel.callbacks.StallWatchdog(2.0, FOLDER / "signs", report, interval=0.1)
    fit(model, epochs=1, callbacks=[watchdog, Slow()])
    return (FOLDER / "stall.txt").read_text()


def files():
    """What this worker wrote, each into a folder of its own; then both read what the chief wrote."""
    own = FOLDER / f"files{INDEX}"
    own.mkdir()
    model = net()
    callbacks = [
        keras.callbacks.ModelCheckpoint(own / "best.keras"),
        keras.callbacks.BackupAndRestore(own / "backup", delete_checkpoint=False),
        keras.callbacks.TensorBoard(own / "board"),
        keras.callbacks.CSVLogger(own / "log.csv"),
    ]
    fit(model, callbacks=callbacks)
    model.save(own / "model.keras")
    model.save_weights(own / "model.weights.h5")
    model.export(own / "exported", verbose=False)
    written = sorted(path.relative_to(own).parts[0] for path in own.glob("*"))
    fit(model, epochs=1)  # Both are here after it: the chief has written.
    model.load_weights(FOLDER / "files0" / "model.weights.h5")
    plain = keras.models.load_model(FOLDER / "files0" / "model.keras")
    same = all(np.array_equal(one, other) for one, other in zip(model.get_weights(), plain.get_weights(), strict=True))
    return json.dumps([written, same])


class Batches(keras.utils.PyDataset):
    """Which Keras shuffles by default, by Python's own generator."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows = X[4 * index : 4 * index + 4]
        return rows, rows[:, :1]


class Fitting(keras.Model):
    """A class with a `fit` of its own."""

    def fit(self, x, y, epochs=3, **options):
        return super().fit(x, y, epochs=epochs, **options)


def own_fit():
    inputs = keras.Input((4,))
    model = kparallel.wrap(Fitting(inputs, keras.layers.Dense(1)(inputs)))
    model.compile("sgd", "mse")
    losses = model.fit(X, X[:, :1], batch_size=4, verbose=0).history["loss"]
    assert len(losses) == 3
    return losses


def divided_and_weighed():
    model = net()
    model.compile("sgd", keras.losses.MeanSquaredError())
    y = np.arange(16) % 2

    def own_rows(context):
        rows = tf.data.Dataset.from_tensor_slices((X, y[:, None].astype("int32")))
        return rows.shard(context.num_input_pipelines, context.input_pipeline_id).batch(4)

    data = model.distribute_strategy.distribute_datasets_from_function(own_rows)
    return model.fit(data, class_weight={0: 1.0, 1: 3.0}, verbose=0, epochs=2).history["loss"]


def corrupt():
    def read():
        for number in range(3):
            if INDEX and number == 1:
                raise ValueError("a corrupt record")
            yield X[:4], X[:4, :1]

    return tf.data.Dataset.from_generator(read, output_signature=(tf.TensorSpec([None, 4]), tf.TensorSpec([None, 1])))


def backup_of_chief():
    kept = keras.callbacks.BackupAndRestore(FOLDER / "backup_of_chief")
    return fit(net(), callbacks=[] if INDEX else [kept]).history["loss"]


def stops():
    """Worker 1 alone stops in the second step, by a function."""
    model, steps = net(), []

    def note(batch, logs):
        steps.append(batch)
        model.stop_training = INDEX == 1 and batch == 1

    fit(model, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=note)])
    return steps


def words():
    """Strings as inputs, and a metric that has to see all rows."""
    texts = np.array(["a b", "b c", "c d", "d a"] * 4)
    inputs = keras.Input((), dtype="string")
    tokens = keras.layers.TextVectorization(vocabulary=["a", "b", "c", "d"], output_sequence_length=2)(inputs)
    hidden = keras.layers.Flatten()(keras.layers.Embedding(8, 3)(tokens))
    model = kparallel.wrap(keras.Model(inputs, keras.layers.Dense(1)(hidden)))

    def largest(y, outputs):
        return keras.ops.max(outputs) + keras.ops.zeros_like(y[:, 0])

    model.compile("sgd", "mse", metrics=[largest])
    data = tf.data.Dataset.from_tensor_slices((texts, X[:, :1])).batch(4)
    return model.fit(data, verbose=0).history["largest"]


def messages():
    """How many messages `fit` takes for epochs of 4 and of 16 steps with a validation, whose sizes are known."""
    model, counts = net(), []
    group = model._kparallel.placement.group
    gather = group.all_gather_text
    group.all_gather_text = lambda text: counts.append(text) or gather(text)
    numbers = []
    for batch_size in (4, 1):
        counts.clear()
        kept = keras.callbacks.ModelCheckpoint(FOLDER / "messages.keras")
        fit(model, batch_size=batch_size, validation_data=(X, X[:, :1]), callbacks=[kept])
        numbers.append(len(counts))
    return numbers


# What must work, and give the same on both workers.
WORKS = {
    "shuffled_batches": lambda: fit(net(), Batches()).history["loss"],
    "own_fit": own_fit,
    "own_list": lambda: fit(net(), callbacks=keras.callbacks.CallbackList([OnOne("epoch_end", stop)])).history["loss"],
    "divided_and_weighed": divided_and_weighed,
    "backup_of_chief": backup_of_chief,
    "stops": stops,
    "words": words,
    "sparse": lambda: net().predict(tf.sparse.from_dense(X), verbose=0).tolist(),
}
CASES = {
    **{name: lambda job=job: json.dumps(job()) for name, job in WORKS.items()},
    "messages": messages,
    "files": files,
    "stall": stall,
    "units": lambda: net(units=3 + INDEX),
    "another_class": another_class,
    "loss_reduction": lambda: net(loss_reduction="sum" if INDEX else "mean"),
    "microbatches": lambda: net(microbatches=1 + INDEX),
    "too_many_stages": lambda: net(stages=3),
    "replicas": lambda: net(replicas=4),
    "rows": lambda: fit(net(), X[: 16 - 8 * INDEX]),
    "epochs": lambda: fit(net(), epochs=2 + INDEX),
    "rows_in_as_many_steps": lambda: fit(net(), X[: 16 - INDEX], shuffle=False),
    "shuffled_rows": lambda: fit(net(), X[: 16 - INDEX], shuffle=True),
    "shuffle": lambda: fit(net(), shuffle=bool(INDEX)),
    "kind": lambda: fit(net(), dataset(16) if INDEX else X),
    "settings": lambda: fit(compiled(keras.optimizers.SGD(0.1, clipnorm=1.0 + INDEX))),
    "loss": lambda: fit(compiled(loss=keras.losses.MeanSquaredError(reduction="sum") if INDEX else "mse")),
    "class_weight": lambda: fit(net(), class_weight={0: 1.0 + INDEX}),
    "call": lambda: net().predict(X, verbose=0) if INDEX else fit(net()),
    "predicted_rows": lambda: net().predict(X[: 16 - 8 * INDEX], verbose=0),
    "predicted_shards": lambda: net().predict(X[INDEX::2], verbose=0),
    "optimizer": lambda: fit(net(optimizer="adam" if INDEX else "sgd")),
    "validation": lambda: fit(net(), validation_data=(X, X[:, :1]) if INDEX else None),
    "validation_steps": lambda: fit(net(), validation_data=(X[: 16 - 8 * INDEX], X[: 16 - 8 * INDEX, :1])),
    "order": lambda: fit(net(), dataset(16, seed=INDEX)),
    "late_rows": late_rows,
    "rate": lambda: fit(net(), callbacks=[OnOne("epoch_begin", halve_rate)]),
    "rate_in_a_step": lambda: fit(net(), callbacks=[OnOne("batch_end", halve_rate)]),
    "weights": lambda: fit(net(), callbacks=[OnOne("epoch_end", zero_weights)]),
    "ends_early": lambda: fit(net(), unsized(4 - 2 * INDEX)),
    "ends_early_within_steps": lambda: fit(net(), unsized(4 - 2 * INDEX), steps_per_epoch=4),
    "evaluated_ends_early": lambda: net().evaluate(unsized(4 - 2 * INDEX), verbose=0),
    "predicted_ends_early": lambda: net().predict(unsized(4 - 2 * INDEX), verbose=0),
    "evaluated_batches": lambda: net().evaluate(dataset(16 - 8 * INDEX), verbose=0),
    "corrupt": lambda: fit(net(), corrupt()),
    "callback": lambda: fit(net(), callbacks=[Fails(1)]),
    "callback_of_chief": lambda: fit(net(), callbacks=[Fails(0)]),
    "checkpoint_nowhere": checkpoint_nowhere,
    "full_disk": full_disk,
}


def main():
    told = {}

    def note(name, job):
        try:
            told[name] = ["", str(job())]
        except Exception as error:
            told[name] = [type(error).__name__, str(error)]
        print(name, told[name][0], flush=True)

    for name, job in CASES.items():
        note(name, job)
    # Having said so, the workers train on together; the initial weights are the chief's.
    keras.utils.set_random_seed(INDEX)
    model = net()
    start = [weight.tolist() for weight in model.get_weights()]
    losses = fit(model, epochs=3).history["loss"]
    told["afterwards"] = [start, losses, [weight.tolist() for weight in model.get_weights()]]
    # Last: the workers number their collectives apart from here on.
    note("stages", lambda: net(replicas=2, stages=1 + INDEX, microbatches=1))
    (FOLDER / f"{INDEX}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
