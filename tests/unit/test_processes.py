"""Which lanes share cores: those of one process, and those of processes on one host with a core in common."""

import pytest

from kparallel.mesh import Mesh
from kparallel.planning.plan import Plan
from kparallel.trace.lanes import lanes_of
from kparallel.trace.processes import Machine, Process
from kparallel.trace.summary import machine_lines
from tests.unit.made_steps import GROUPS, step_of, summary_of

ROW = Plan("net", Mesh((("worker0/CPU:0", "worker1/CPU:0"),)), GROUPS, microbatches=2)


def processes(*places):
    return {index: Process(host, frozenset(cores), 2 * 10**9, 3 * 10**9) for index, (host, cores) in enumerate(places)}


@pytest.mark.parametrize(
    ("other", "shared"), [(("a", {1}), True), (("a", {2, 3}), False), (("b", {0, 1}), False)], ids=str
)
def test_lanes_share_the_cores_that_their_processes_share(other, shared):
    machine = Machine(cores=2, processes=processes(("a", {0, 1}), other))
    first, second = lanes_of(ROW)
    assert machine.beside(first, [first, second]) == ([first, second] if shared else [first])
    assert (machine.cores_of(first), machine.cores_of(second)) == (2, len(other[1]))
    assert summary_of(ROW, step_of(ROW), machine=machine).devices == (2 if shared else 1)


def test_layers_that_are_placed_by_name_run_in_the_first_process():
    placed = Plan("net", ROW.mesh, tuple(type(group)(group.layers, 4, 16) for group in GROUPS))
    [lane] = lanes_of(placed)
    assert Machine(cores=4, processes=processes(("a", {0}), ("b", {1, 2}))).cores_of(lane) == 1


def test_one_process_shares_all_its_cores():
    lanes = lanes_of(ROW)
    assert Machine(cores=3).beside(lanes[0], lanes) == lanes and Machine(cores=3).cores_of(lanes[0]) == 3


def test_the_report_names_each_process_and_what_passes_between_them():
    summary = summary_of(ROW, step_of(ROW), machine=Machine(2, processes=processes(("a", {0}), ("b", {1}))))
    [memory] = machine_lines(summary)  # The stages of these groups do not tell what they read.
    assert memory in str(summary)
    assert memory.endswith("worker 0 on a 2 GB, at its peak 3 GB; worker 1 on b 2 GB, at its peak 3 GB")
    assert not machine_lines(summary_of(ROW, step_of(ROW), machine=Machine(2)))
