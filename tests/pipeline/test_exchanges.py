"""How often replicas wait for one another in a step: counted while the step is traced."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel.comm.communicator import LocalCommunicator
from tests.choice import some

L = keras.layers


def normed():
    return keras.Sequential([keras.Input((4,)), L.Dense(6), L.BatchNormalization(), L.Dense(1)])


def own_loss(y_true, y_pred):
    return keras.ops.mean((y_true - y_pred) ** 2, axis=-1)


def communicators(monkeypatch, model, arguments, data, evaluate=False, **options):
    """Return what the first replica sums in one step, one list for each exchange."""
    given = []
    whole = LocalCommunicator.all_reduce

    def noted(self, values):
        if self.replica_index == 0:
            given.append(list(values))
        return whole(self, values)

    wrapped = kparallel.wrap(model, replicas=2, **options)
    wrapped.compile(**arguments)
    monkeypatch.setattr(LocalCommunicator, "all_reduce", noted)
    x, y, *weight = data
    method = wrapped.evaluate if evaluate else wrapped.fit
    method(x, y, sample_weight=weight[0] if weight else None, batch_size=7, verbose=0)
    return given


def rows(*more):
    return np.ones((7, 4), "float32"), np.ones((7, 1), "float32"), *more


@pytest.mark.parametrize(("stages", "microbatches"), some([(1, 1), (1, 2), (2, 2)], (1, 1), (2, 2)))
def test_gradients_state_and_report_are_one_exchange_of_each_stage(monkeypatch, stages, microbatches):
    arguments = {"optimizer": "adam", "loss": "mse", "metrics": ["mae"]}
    found = communicators(monkeypatch, normed(), arguments, rows(), stages=stages, microbatches=microbatches)
    assert len(found) == stages
    assert sum(map(len, found)) == 6 + 2 + 1  # Kernels, biases, gamma and beta; moving statistics; the report.


def test_to_evaluate_takes_one_exchange(monkeypatch):
    found = communicators(monkeypatch, normed(), {"loss": "mse", "metrics": ["mae"]}, rows(), evaluate=True)
    assert [len(values) for values in found] == [1]


@pytest.mark.parametrize(
    ("loss", "data", "dropped"),
    [
        (own_loss, rows(), [1]),  # A trace that replicas would share comes first, and is not run.
        (keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"), rows(np.ones(7, "float32")), []),
    ],
    ids=["own_loss", "weights"],
)
def test_a_denominator_that_rows_do_not_tell_is_summed_first(monkeypatch, loss, data, dropped):
    found = communicators(monkeypatch, normed(), {"optimizer": "sgd", "loss": loss}, data)
    assert [len(values) for values in found] == [*dropped, 1, 9]


@pytest.mark.parametrize(("optimizer", "slices"), [("sgd", 0), ("adam", 1)])
def test_slices_of_a_small_table_are_summed_whole_where_an_optimizer_allows_it(monkeypatch, optimizer, slices):
    """Shares of 4 and 3 rows: replicas that decided by their rows would ask for different communicators."""
    model = keras.Sequential([keras.Input((3,), dtype="int32"), L.Embedding(5, 2), L.Flatten(), L.Dense(1)])
    data = np.arange(21).reshape(7, 3) % 5, np.ones((7, 1), "float32")
    (values,) = communicators(monkeypatch, model, {"optimizer": optimizer, "loss": "mse"}, data)
    assert sum(isinstance(value, tf.IndexedSlices) for value in values) == slices
