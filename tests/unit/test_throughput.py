"""Samples per second, on plain and on wrapped models."""

import functools

import keras
import pytest
import tensorflow as tf

from kparallel.callbacks import Throughput
from tests.unit.line import X, Y, fit, net


@pytest.mark.parametrize("replicas", [None, 2])
@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_throughput_counts_steps_behind_the_first(replicas, steps_per_execution):
    model = net("sgd", replicas)
    model.compile("sgd", "mse", steps_per_execution=steps_per_execution)
    ticks = iter(range(1000))
    history = fit(model, Throughput(4, single_replica=2.0, clock=lambda: float(next(ticks)))).history
    # One tick for each call of the clock: an epoch of n executions takes n seconds, the first of fit one less.
    calls = 6 // steps_per_execution
    first = (6 - steps_per_execution) * 4 / (calls - 1)
    rates = [first, 6 * 4 / calls]
    each = [rate / (replicas or 1) for rate in rates]
    assert history["samples_per_second"] == pytest.approx(rates)
    assert history["samples_per_second_per_replica"] == pytest.approx(each)
    assert history["scaling_efficiency"] == pytest.approx([rate / 2 for rate in each])


class Ticks(keras.callbacks.Callback):
    """A clock by which a step takes one second, and a hundred while TensorFlow's profiler runs."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.now, self.recorded = 0.0, False
        self.throughput = Throughput(4, clock=lambda: self.now, explain=True)
        for name, recorded in (("start", True), ("stop", False)):
            whole = getattr(tf.profiler.experimental, name)
            monkeypatch.setattr(tf.profiler.experimental, name, functools.partial(self.note, whole, recorded))

    def note(self, whole, recorded, *arguments, **options):
        self.recorded = recorded
        return whole(*arguments, **options)

    def on_train_batch_end(self, batch, logs=None):
        self.now += 100.0 if self.recorded else 1.0


@pytest.mark.parametrize("validated", [False, True])
def test_recorded_steps_do_not_count(validated, capsys, monkeypatch):
    ticks = Ticks(monkeypatch)
    validation = {"validation_data": (X, Y)} if validated else {}
    # An epoch has 6 steps: the first is traced, two count, and the rest are recorded, of which two are told of.
    model = net("sgd", 2)
    model.fit(X, Y, batch_size=4, epochs=3, verbose=0, callbacks=[ticks, ticks.throughput], **validation)
    assert model.history.history["samples_per_second"] == pytest.approx([4.0] * 3)
    assert len(ticks.throughput.summary.step_times) == 2
    [line] = capsys.readouterr().out.splitlines()
    assert line == f"kparallel: {ticks.throughput.explanation}" and ": " in ticks.throughput.explanation


def test_throughput_reaches_tensorboard(tmp_path):
    model = net("sgd")
    callbacks = [Throughput(4), keras.callbacks.TensorBoard(tmp_path)]
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=callbacks)
    events = b"".join(path.read_bytes() for path in tmp_path.rglob("events*"))
    assert b"samples_per_second_per_replica" in events
