"""The processes of one program, as the program and its servers measure them."""

import os
from types import SimpleNamespace

from kparallel.cluster import Cluster
from kparallel.machines.measured import measured_machine
from kparallel.machines.requests import CORES, MEMORY
from kparallel.trace.processes import Machine, Process

ANSWERS = {MEMORY: {1: [5, 7]}, CORES: {1: [2, 3]}}


def test_each_worker_has_its_host_its_cores_and_its_memory():
    program = SimpleNamespace(cluster=Cluster(("a:1", "b:1"), 0), ask=ANSWERS.__getitem__)
    machine = measured_machine(program, Machine(cores=4, threads=2))
    assert (machine.cores, machine.threads, machine.worker, list(machine.processes)) == (4, 2, 0, [0, 1])
    own = machine.processes[0]
    assert (own.host, own.cores) == ("a", frozenset(os.sched_getaffinity(0))) and 2**20 < own.memory <= own.most_memory
    assert machine.processes[1] == Process("b", frozenset({2, 3}), memory=5, most_memory=7)
