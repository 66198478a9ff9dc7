"""A step that stands still is named."""

import json
import threading
import time

import keras
import pytest

from kparallel.callbacks import StallWatchdog
from tests.unit.line import X, Y, fit, net


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
    assert message.startswith("worker 0 has not finished step 3: nothing for 1 s, at test_stall.py:")
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
    deadline = time.monotonic() + 120
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
