"""The single-machine table of exactness and what workers must agree on, run by one worker, or by plain Keras.

    kparallel run -n 2 table.py DIRECTORY NAME ...     python table.py DIRECTORY NAME ...

With SHARD=optimizer in the environment the workers share the optimizer out, with SHARD=weights the weights too.

Each named case's weights, slots, history and outputs are pickled into the directory, in a file for each worker.
"""

import os
import pickle
import random
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

import kparallel
from kparallel.cluster import read_cluster

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.equality.cases import CASES  # noqa: E402
from tests.equality.measure import build, train, use  # noqa: E402
from tests.equality.models import mlp, numbers  # noqa: E402

CLUSTER = read_cluster()
SCCE = "sparse_categorical_crossentropy"


def wrap(model):
    return model if CLUSTER is None else kparallel.wrap(model, shard=os.environ.get("SHARD"))


def compiled(make, **arguments):
    keras.utils.set_random_seed(7)
    model = wrap(make())
    model.compile(**{"optimizer": "sgd", "loss": SCCE, "metrics": ["accuracy"], **arguments})
    return model


def outcome(model, history=None, **others):
    variables = [*model.weights, *model.optimizer.variables]
    logs = {} if history is None else history.history
    return {"state": [np.asarray(variable.numpy()) for variable in variables], "history": logs, **others}


def of_the_table(name):
    case = CASES[name]
    use(case.policy or "float64")
    return train(wrap(build(case)), case)


def totals():
    """As many rows as do not fill the last batch, or leave a worker without any."""
    results = {}
    for rows in (1, 9, 13, 16):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(rows, 4)), rng.integers(0, 3, rows)
        model = compiled(mlp)
        history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, validation_data=(x[:5], y[:5]))
        results[rows] = outcome(model, history, predicted=model.predict(x, batch_size=8, verbose=0))
    return results


def datasets():
    x, y = numbers()
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(22, seed=3).batch(5)
    model = compiled(mlp)
    history = model.fit(dataset, epochs=2, verbose=0, validation_data=tf.data.Dataset.from_tensors((x[:3], y[:3])))
    return outcome(model, history)


def stopping_and_plateau():
    x, y = numbers()
    model = compiled(mlp, optimizer=keras.optimizers.SGD(0.5))
    callbacks = [
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=1, factor=0.5),
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=2, restore_best_weights=True),
    ]
    shared = {"batch_size": 5, "epochs": 12, "shuffle": False, "verbose": 0, "callbacks": callbacks}
    history = model.fit(x, y, validation_data=(x[::-1][:9], y[:9]), **shared)
    return outcome(model, history, epochs=len(history.epoch))


class _Stop(keras.callbacks.Callback):
    def __init__(self, worker, step):
        super().__init__()
        self.worker, self.step, self.seen = worker, step, []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(float(logs["loss"]))
        if (CLUSTER is None or CLUSTER.index == self.worker) and len(self.seen) == self.step:
            self.model.stop_training = True


def stop_on_any_worker():
    """One worker's callback stops all; batch logs are global."""
    x, y = numbers()
    results = []
    for worker in (0, 1):
        stop = _Stop(worker, 7)
        model = compiled(mlp)
        history = model.fit(x, y, batch_size=5, epochs=4, shuffle=False, verbose=0, callbacks=[stop])
        results.append(outcome(model, history, seen=stop.seen))
    return results


def every_row_once():
    """Shuffled: with one-hot rows and a loss that is linear, each weight tells how often its row was trained.

    Each batch's mean counts a row a third; the last batch has two rows, which count a half.
    """
    rows = np.eye(20)
    model = wrap(
        keras.Sequential([keras.Input((20,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    )
    model.compile(keras.optimizers.SGD(1.0), loss=lambda y, p: -keras.ops.sum(y * p, axis=-1))
    counts = []
    for _ in range(2):
        model.fit(rows, np.ones((20, 1)), batch_size=3, epochs=1, verbose=0)
        counts.append(model.get_weights()[0].ravel().copy())
    return {"counts": counts}


def arrays():
    """What Keras makes of arrays: sizes from steps, weights of all outputs, and what it refuses."""
    x, y = numbers()
    results = {}
    steps = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(batch))
    results["steps"] = compiled(mlp).fit(x, y, steps_per_epoch=2, epochs=1, verbose=0, callbacks=[count]).epoch, steps
    for shuffle, size, rows in (("batch", 5, x), (True, 22, scipy.sparse.csr_matrix(x))):
        model = compiled(mlp)
        history = model.fit(rows, y, batch_size=size, epochs=2, shuffle=shuffle, verbose=0)
        results[str(shuffle)] = outcome(model, history)
    for name, targets in (("lengths", y[:20]), ("lists", y.tolist())):
        with pytest.raises(ValueError, match="cardinality" if name == "lengths" else "Unrecognized data type"):
            compiled(mlp).fit(x, targets, batch_size=5, verbose=0)
    return results


EXTRA = [arrays, totals, datasets, stopping_and_plateau, stop_on_any_worker, every_row_once]
# What an optimizer does with the sums is each worker's own affair: the table on one machine has these.
LOCAL = ("nesterov", "amsgrad", "adafactor", "lion", "muon", "rmsprop", "decay_without_biases", "clipvalue")
LOCAL += ("positions_clipped", "positions_accumulated", "one_table_clipped", "sparse_inputs_clipped")
LOCAL += ("positions_eagerly",)  # A cluster's step runs in graphs only.
RUNS: dict[str, tuple[Any, ...]] = {
    **{name: (of_the_table, name) for name in CASES if name not in LOCAL},
    **{run.__name__: (run,) for run in EXTRA},
}
# Where the optimizer is sharded, they need the other worker too.
SHARDED = [name for name in CASES if name != "positions_eagerly"]


def main(directory, *names):
    keras.config.set_floatx("float64")
    results = {}
    for name in names:
        function, *arguments = RUNS.get(name, (of_the_table, name))
        use("float64")
        keras.utils.set_random_seed(7)
        random.seed(7)
        try:
            results[name] = function(*arguments)
        except Exception as error:  # The test of this case shows it; the others go on.
            results[name] = {"error": f"{type(error).__name__}: {error}"}
        keras.backend.clear_session()
    who = "plain" if CLUSTER is None else str(CLUSTER.index)
    (Path(directory) / f"{who}.pkl").write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main(*sys.argv[1:])
