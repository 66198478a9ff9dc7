"""What the processes of one program hold and run on, measured in each of them."""

import os
from dataclasses import replace

from kparallel.cluster import host_and_port
from kparallel.machines.memory import process_memory
from kparallel.machines.program import Program
from kparallel.machines.requests import CORES, MEMORY, memory_answer
from kparallel.trace.processes import Machine, Process

__all__: list[str] = []


def measured_machine(program: Program, machine: Machine) -> Machine:
    """Return this worker's machine with the process of each worker.

    Args:
        program: Knows the servers.
        machine: This worker's, without the others.
    """
    own = program.cluster.index
    memory = {own: memory_answer(process_memory()), **program.ask(MEMORY)}
    cores = {own: sorted(os.sched_getaffinity(0)), **program.ask(CORES)}
    hosts = [host_and_port(address)[0] for address in program.cluster.workers]
    processes = {index: Process(hosts[index], frozenset(cores[index]), *memory[index]) for index in sorted(memory)}
    return replace(machine, processes=processes)
