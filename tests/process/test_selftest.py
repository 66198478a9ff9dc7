"""`kparallel test`: on two workers, and in one process with training that goes wrong."""

import os
import re
import subprocess
import sys

import kparallel
from kparallel.forecast.hardware_file import read_hardware
from kparallel.selftest.__main__ import main

LINE = r" - {}  .*{} +[\d.]+ ms +[\d.]+ ms +[\d.]+ .B/s   (ok|SLOW: .*)\n"


def test_two_workers_pass(tmp_path):
    file = tmp_path / "cluster.toml"
    command = [sys.executable, "-m", "kparallel", "test", "-n", "2", "--timeout", "100", "--write", file]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=840)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("CPU:0\n") == 2 and run.stdout.endswith("[0] passed\n"), run.stdout
    assert re.search("worker 0" + LINE.format("worker 1", "one host"), run.stdout), run.stdout
    assert re.search(r"training: equal to one device, at most \S+ from it", run.stdout), run.stdout
    hardware = read_hardware(file)
    assert (hardware.machines, hardware.devices_per_machine) == (1, 2) and hardware.flop_rate("float64") > 0


def test_wrong_training_fails(capsys):
    def wrap(model):
        wrapped = kparallel.wrap(model, replicas=2)
        wrapped.get_weights = lambda: [weight + 1e-6 for weight in kparallel.ParallelModel.get_weights(wrapped)]
        return wrapped

    assert main(wrap) == 1
    printed = capsys.readouterr().out
    assert printed.endswith("failed\n") and "WRONG on worker 0: " in printed and "expected at most 1e-09" in printed
    for first, second in ("01", "23"):
        assert re.search(f"CPU:{first}" + LINE.format(f"CPU:{second}", "one process"), printed), printed
