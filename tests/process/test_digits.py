"""The main job on real images, in a process of its own, as a user starts it."""

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def requests():
    """Point every proxy setting at a listener, and return what is asked of it."""
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    seen.append(connection.recv(200))

        threading.Thread(target=answer, daemon=True).start()
        proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
        names = ["http_proxy", "https_proxy", "all_proxy"]
        yield seen, {name: proxy for n in names for name in (n, n.upper())} | {"no_proxy": "", "NO_PROXY": ""}
        listener.shutdown(socket.SHUT_RDWR)


def digits(folder, *arguments, env=None):
    command = [sys.executable, ROOT / "examples" / "digits.py", "--data-dir", folder / "records", *arguments]
    # The script finds its own neighbours; the folder of the test's dataset stands in for a user's package.
    paths = [str(Path(__file__).parent), str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": "-1"} | (env or {})
    run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=720)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    return run.stdout


def accuracies(text):
    return [float(value) for value in re.findall(r"^test accuracy.*: (\d\.\d{4})$", text, re.MULTILINE)]


def test_digits_reach_97_percent_on_two_replicas(tmp_path, requests):
    seen, proxies = requests
    text = digits(tmp_path, env=proxies)
    assert seen == [], "the job asked for something on the network"
    assert "2 replicas x 1 stage" in text and "CPU:1" in text
    assert "45/45" in text and "val_accuracy" in text, "Keras's progress bar"
    trained, loaded = accuracies(text)
    assert trained >= 0.97
    assert abs(trained - loaded) < 1e-4
    records = sorted(path.name for path in (tmp_path / "records" / "sklearn_digits" / "1.0.0").iterdir())
    assert [name for name in records if "tfrecord" in name] == [
        "sklearn_digits-test.tfrecord-00000-of-00001",
        "sklearn_digits-train.tfrecord-00000-of-00001",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records", "sklearn_digits.keras"]


@pytest.mark.full
def test_another_dataset_of_images_trains_too(tmp_path):
    text = digits(tmp_path, "--imports=tiny_images", "--dataset=tiny_images", "--epochs=1", "--replicas=3")
    assert "3 replicas x 1 stage" in text
    trained, loaded = accuracies(text)
    assert abs(trained - loaded) < 1e-4
