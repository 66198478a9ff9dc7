"""Which link carries what, and how long a sum over a group takes."""

from math import log2

import pytest

from kparallel.forecast.hardware import Hardware, Link
from kparallel.forecast.placement import Group, all_reduce, hop, place


def cluster(**changes):
    given = {"within": Link(1e11, 1e-6), "between": Link(4e10, 1e-5, per_device=1e10), "machines": 4}
    return Hardware("it", 4, 1e9, {"float32": 1e12}, 1.0, **{**given, **changes})


def test_a_mesh_on_machines():
    assert place(8, 8, 1, "stages").group == Group(8, 1, 8, 1)
    assert place(8, 16, 1, "stages").group == Group(16, 2, 8, 1)
    # Rows of four on machines of four: activations stay at home, the four columns share the link.
    rows = place(4, 4, 4, "stages")
    assert not any(rows.crosses) and rows.group == Group(4, 4, 1, 4)
    # Columns of four on machines of four: gradients stay at home, all four devices send activations.
    columns = place(4, 4, 4, "replicas")
    assert all(columns.crosses) and columns.senders == 4 and columns.group == Group(4, 1, 4, 1)
    # A row of eight on machines of four: it leaves the machine in its middle and at its end.
    long = place(4, 1, 8, "stages")
    assert [lane for lane, crosses in enumerate(long.crosses) if crosses] == [3, 7] and long.senders == 1


def test_a_hop_takes_the_link_that_it_crosses():
    here, there = place(4, 4, 4, "stages"), place(4, 4, 4, "replicas")
    assert hop(cluster(), here, 0, 1e8) == pytest.approx((1e-6 + 1e-3, 1e-3))
    assert hop(cluster(), there, 0, 1e8) == pytest.approx((1e-5 + 1e-2, 1e-2))  # Four share 4e10, each may use 1e10.


def test_the_ring():
    assert all_reduce(cluster(), Group(1, 1, 1, 1), 1e9) == 0
    assert all_reduce(cluster(), Group(4, 1, 4, 1), 1e9) == pytest.approx(2 * 3 / 4 * 1e9 / 1e11 + 6e-6)
    # Over machines at their link's pace; 3 of 15 steps on, and as many back, leave a machine.
    assert all_reduce(cluster(), Group(16, 4, 4, 1), 1e9) == pytest.approx(2 * 15 / 16 * 1e9 / 4e10 + 24e-6 + 6e-5)
    # Four groups share the link; one device of a machine can use a quarter of it in any case.
    assert all_reduce(cluster(), Group(4, 4, 1, 4), 1e9) == pytest.approx(2 * 3 / 4 * 1e9 / 1e10 + 6e-5)
    assert all_reduce(cluster(), Group(4, 4, 1, 8), 1e9) == pytest.approx(2 * 3 / 4 * 1e9 / 5e9 + 6e-5)


def test_nccl_takes_a_tree_where_latency_counts():
    nccl, group = cluster(all_reduce="nccl", machines=256), Group(1024, 256, 4, 1)
    few = all_reduce(nccl, group, 1e3)
    assert few == pytest.approx(2e3 / (0.9 * 4e10) + 6e-6 + 2 * log2(256) * 1e-5)
    assert few < all_reduce(cluster(machines=256), group, 1e3) / 20
    assert all_reduce(nccl, group, 1e11) == all_reduce(cluster(machines=256), group, 1e11)
