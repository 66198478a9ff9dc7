"""The callbacks, on plain and on wrapped models."""

import functools
import json
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel.callbacks import StallWatchdog, Throughput, Warmup

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3))
Y = RNG.normal(size=(24, 1))


def net(optimizer, replicas=None):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model = kparallel.wrap(model, replicas=replicas) if replicas else model
    model.compile(optimizer, "mse")
    return model


def fit(model, callback, epochs=2, **arguments):
    return model.fit(X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=[callback], **arguments)


def by_hand(rates, momentum):
    """SGD with the velocity free of the rate, as Goyal et al. write it: v = m v + g, w = w - rate v."""
    weights = [w.copy() for w in net("sgd").get_weights()]
    velocity = [np.zeros_like(w) for w in weights]
    for step, rate in enumerate(rates):
        rows = slice(step % 6 * 4, step % 6 * 4 + 4)
        error = 2 * (X[rows] @ weights[0] + weights[1] - Y[rows]) / 4
        for index, gradient in enumerate((X[rows].T @ error, error.sum(0))):
            velocity[index] = momentum * velocity[index] + gradient
            weights[index] = weights[index] - rate * velocity[index]
    return weights


@pytest.mark.parametrize("replicas", [None, 2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_warmup_is_that_of_the_paper(momentum, replicas):
    model = net(keras.optimizers.SGD(0.01, momentum), replicas)
    history = fit(model, Warmup(scale=None if replicas else 2, epochs=1.5)).history
    rates = [0.01 * (1 + min(1, step / 9)) for step in range(12)]
    for actual, expected in zip(model.get_weights(), by_hand(rates, momentum), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
    np.testing.assert_allclose(history["learning_rate"], [0.01 * (1 + 6 / 9), 0.02], rtol=1e-6)


def test_warmup_leaves_the_rate_to_others_once_it_is_over():
    model = net(keras.optimizers.SGD(0.05, momentum=0.9))
    warmup = Warmup(scale=4, steps=3)
    lower = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.001 if epoch == 1 else rate)
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[warmup, lower])
    assert float(model.optimizer.learning_rate) == pytest.approx(0.001)


def test_warmup_refuses_what_it_cannot_warm():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    with pytest.raises(ValueError, match="ExponentialDecay"):
        fit(net(keras.optimizers.SGD(schedule)), Warmup(scale=2))
    for arguments in ({"scale": 0}, {"epochs": -1}, {"steps": 0}):
        with pytest.raises(ValueError, match="above 0"):
            Warmup(**arguments)


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


class Slow(keras.callbacks.Callback):
    """Holds one step until the watchdog has spoken."""

    def __init__(self, step, spoken):
        super().__init__()
        self.step, self.spoken = step, spoken

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self.step:
            assert self.spoken.wait(20)


@pytest.mark.parametrize("replicas", [None, 2])
def test_a_step_that_stands_still_is_named_once(replicas):
    messages, spoken = [], threading.Event()

    def report(message):
        messages.append(message)
        spoken.set()

    watchdog = StallWatchdog(1.0, report=report, interval=0.1)
    model = net("sgd", replicas)
    fit(model, keras.callbacks.Callback(), epochs=1)
    model.fit(X, Y, batch_size=4, verbose=0, callbacks=[watchdog, Slow(3, spoken)])
    [message] = messages
    assert message.startswith("worker 0 has not finished step 3: nothing for 1 s, at test_callbacks.py:")
    assert message.endswith(" in on_train_batch_begin")
    assert not [thread for thread in threading.enumerate() if thread.name == "kparallel-stall"]


def test_a_silent_and_a_slow_worker_are_told_apart(tmp_path, monkeypatch):
    workers = [f"host:{port}" for port in (1, 2, 3)]
    config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    messages, spoken = [], threading.Event()

    def report(message):
        messages.append(message)
        spoken.set()

    watchdog = StallWatchdog(0.6, tmp_path, report, interval=0.1)
    monkeypatch.delenv("TF_CONFIG")
    (tmp_path / "worker-1.json").write_text('{"step": 1, "seconds": 0.1, "place": "", "time": 5}')
    over = threading.Event()

    def alive():
        while not over.wait(0.05):
            sign = {"step": 0, "seconds": 9.0, "place": "train.py:7 in read", "time": time.time()}
            (tmp_path / "new").write_text(json.dumps(sign))
            (tmp_path / "new").replace(tmp_path / "worker-2.json")

    thread = threading.Thread(target=alive)
    thread.start()
    model = net("sgd")
    model.fit(X[:4], Y[:4], verbose=0)
    watchdog.set_model(model)
    watchdog.on_train_begin()
    deadline = time.monotonic() + 20
    while not any("worker 1" in message for message in messages) and time.monotonic() < deadline:
        watchdog.on_train_batch_begin(0)
        watchdog.on_train_batch_end(0)
        spoken.wait(0.05)
    watchdog.on_train_end()
    over.set()
    thread.join()
    assert any("worker 1 (host:2) has given no sign of life for 1 s, at step 1" in message for message in messages)
    assert any(
        "worker 2 (host:3) has not finished step 0: nothing for 9 s, at train.py:7 in read" in message
        for message in messages
    )
    assert json.loads((tmp_path / "worker-0.json").read_text())["step"] > 0


def test_the_watchdog_refuses_times_that_make_no_sense():
    with pytest.raises(ValueError, match="interval"):
        StallWatchdog(seconds=1.0, interval=2.0)
