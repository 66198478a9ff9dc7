"""`kparallel.launch`: a function on several workers, from a notebook and from a script."""

import io
import os
import signal
import subprocess
import sys
import threading

import nbformat
import pytest
from nbclient import NotebookClient

import kparallel
from kparallel import errors
from tests.process.light_gang import wait_until

DEFINE = """
import kparallel

def train(rows, seed):
    import keras, numpy as np
    keras.config.set_floatx("float64")
    x = np.random.default_rng(seed).normal(size=(rows, 3))

    def fit(wrap):
        keras.utils.set_random_seed(seed)
        model = wrap(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]))
        model.compile("adam", "mse")
        losses = model.fit(x, x[:, :1], batch_size=4, epochs=2, shuffle=False, verbose=0).history["loss"]
        return model, np.array([*losses, *model.get_weights()[0].flat])

    model, wrapped = fit(kparallel.wrap)
    print("replicas:", model.plan.replicas)
    return float(np.abs(wrapped - fit(lambda model: model)[1]).max())

def outer():
    def inner():
        raise ValueError("no such file")  # in a cell
    inner()
"""
RUN = """
print("equal to one device:", kparallel.launch(train, [9, 7]) < 1e-12)
"""
FAIL = "kparallel.launch(outer, workers=1)"


def test_a_notebook_trains_on_two_workers():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in (DEFINE, RUN, FAIL)])
    NotebookClient(notebook, timeout=600, allow_errors=True).execute()
    _, trained, failed = ([*cell.outputs] for cell in notebook.cells)
    printed = "".join(output.text for output in trained if output.get("name") == "stdout")
    assert "[0] replicas: 2\n" in printed and "[1] replicas: 2\n" in printed, trained
    assert printed.endswith("equal to one device: True\n"), trained
    assert failed[-1].output_type == "error" and failed[-1].ename == "ValueError", failed
    shown = "\n".join(failed[-1].traceback)
    assert "worker 0 failed with exit code 1" in shown and 'raise ValueError("no such file")  # in a cell' in shown


def test_a_result_comes_back(capsys):
    factor = 3

    class Found:
        def __init__(self, value):
            self.value = value

    def work(value):
        print("works")
        print("warns", file=sys.stderr)
        return Found(factor * value), os.environ.get("TF_CONFIG")

    found, config = kparallel.launch(work, [2], workers=1)
    assert type(found).__name__ == "Found" and found.value == 6 and config is None
    assert capsys.readouterr() == ("works\n", "warns\n")


class UnreadableError(Exception):
    """Cannot be made from its message alone."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def test_a_worker_that_ends_otherwise_is_named(capsys):
    def unreadable():
        raise UnreadableError("not", "so")

    assert kparallel.launch(sys.exit, [0], workers=1) is None
    with pytest.raises(errors.WorkerError, match="^worker 0 failed with exit code 3.$"):
        kparallel.launch(sys.exit, [3], workers=1)
    with pytest.raises(errors.WorkerError, match="^worker 0 was ended by SIGKILL.$"):
        kparallel.launch(lambda: os.kill(os.getpid(), signal.SIGKILL), workers=1)
    with pytest.raises(errors.WorkerError, match="(?s)exit code 1:\nTraceback.*in unreadable.*UnreadableError: not so"):
        kparallel.launch(unreadable, workers=1)
    with pytest.raises(TypeError, match="cannot pickle"):  # The result.
        kparallel.launch(lambda: threading.Lock(), workers=1)


def test_what_the_streams_encoding_cannot_show_ends_no_training(monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    assert kparallel.launch(lambda: os.write(1, b"caf\xe9\n"), workers=1) == 5
    assert shown.getvalue() == b"caf?\n"


def test_what_cannot_start_is_refused(monkeypatch):
    lock = threading.Lock()
    with pytest.raises(TypeError) as raised:
        kparallel.launch(lambda: lock, workers=1)
    assert "Make what cannot be sent inside it." in raised.value.__notes__[0]
    for wrong in ({"workers": 0}, {"workers": True}, {"devices_per_worker": 0}):
        with pytest.raises(ValueError, match="whole number of at least 1"):
            kparallel.launch(print, **wrong)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cloudpickle", None)
        with pytest.raises(ImportError, match=r"pip install 'kparallel\[notebooks\]'") as missing:
            kparallel.launch(print, workers=1)
        assert not hasattr(missing.value, "__notes__")
    with monkeypatch.context() as patch:
        patch.setenv("KPARALLEL_LAUNCHER", "1")
        with pytest.raises(errors.ClusterError, match="received a call in a worker"):
            kparallel.launch(print, workers=1)
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}')
    with pytest.raises(errors.ClusterError, match="received TF_CONFIG with 2 workers"):
        kparallel.launch(print, workers=1)


SLEEP = """
import os, sys, time
import kparallel

def sleep():
    try:
        print(os.getpid(), flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise

try:
    kparallel.launch(sleep, workers=1)
except KeyboardInterrupt:
    print("raised", flush=True)
"""


def is_gone(process):
    return not os.path.exists(f"/proc/{process}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_or_the_end_of_the_program_ends_the_workers(number):
    process = subprocess.Popen([sys.executable, "-c", SLEEP], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        worker = int(process.stdout.readline())
        process.send_signal(number)
        out, err = process.communicate(timeout=360)
    finally:
        process.kill()
    if number == signal.SIGINT:
        assert out == "interrupted\nraised\n" and "KeyboardInterrupt" in err, out + err
    wait_until(lambda: is_gone(worker))
