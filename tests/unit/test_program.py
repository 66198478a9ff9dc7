"""How the program's side of one program over several machines is set up; tests/cluster/test_machines.py runs it."""

import os

import pytest
import tensorflow as tf

from kparallel.machines import program

FEW, MANY = {0}, set(range(16))


@pytest.mark.parametrize(
    ("cores", "set_before", "variable", "started", "threads"),
    [
        (FEW, 0, None, False, [4]),
        (MANY, 0, None, False, []),
        (FEW, 2, None, False, []),
        (FEW, 0, "2", False, []),
        (FEW, 0, None, True, []),
    ],
    ids=["few cores", "many cores", "set by the script", "set in the environment", "TensorFlow runs"],
)
def test_a_machine_of_few_cores_sends_while_it_computes(monkeypatch, cores, set_before, variable, started, threads):
    seen = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: cores)
    monkeypatch.setattr(tf.config.threading, "get_inter_op_parallelism_threads", lambda: set_before)
    monkeypatch.setattr(tf.config.threading, "set_inter_op_parallelism_threads", seen.append)
    monkeypatch.setattr(program, "tensorflow_has_started", lambda: started)
    monkeypatch.delenv("TF_NUM_INTEROP_THREADS", raising=False)
    if variable:
        monkeypatch.setenv("TF_NUM_INTEROP_THREADS", variable)
    program.send_while_computing()
    assert seen == threads
