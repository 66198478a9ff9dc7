"""The same script trains inside Ray Train, on two workers of this machine."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

import kparallel
from kparallel.compat.startup import take_back_legacy_keras


@pytest.mark.full
def test_a_script_trains_inside_ray_train():
    pytest.importorskip("ray.train", reason="needs the extra ray")
    folder = tempfile.mkdtemp(prefix="r")  # Short, since the paths of sockets are short.
    command = [sys.executable, Path(__file__).with_name("ray_script.py"), folder]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **streams)
    try:
        out, _ = process.communicate(timeout=560)
        assert process.returncode == 0, out[-6000:]
        assert "trained keras.src.models.sequential off by" in out
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("in_ray", [True, False])
def test_only_in_ray_the_variable_is_taken_back(monkeypatch, in_ray):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    monkeypatch.setenv("TF_CONFIG", "{}")
    monkeypatch.delitem(sys.modules, "ray.train", raising=False)
    if in_ray:
        monkeypatch.setitem(sys.modules, "ray.train", ModuleType("ray.train"))
    take_back_legacy_keras()
    assert ("TF_USE_LEGACY_KERAS" in os.environ) is not in_ray


def test_without_ray_its_callback_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'kparallel\[ray\]'"):
        kparallel.callbacks.RayReport()
