"""What a device holds where the replicas share out the optimizer, or the weights too."""

import pytest

from kparallel.mesh import Mesh
from kparallel.planning.plan import LayerGroup, Plan
from kparallel.planning.shares import shares

ROWS = (("CPU:0",) * 3, ("CPU:1",) * 3)
GROUPS = tuple(
    LayerGroup((f"layer_{i}",), size // 4, size, units=(i,), frozen_bytes=frozen, largest_bytes=size - frozen)
    for i, (size, frozen) in enumerate([(400, 0), (800, 400), (40, 0)])
)


@pytest.mark.parametrize(
    ("shard", "microbatches", "wanted"),
    # Of 840 trained bytes a half, and 400 that are frozen; brought are stages 0 and 1, all but 40 bytes.
    [
        ("weights", 1, (400 + 420, 2 * 420, 800, 840)),
        ("weights", 2, (400 + 420, 2 * 420, 800, 840)),
        ("optimizer", 1, (1240, 2 * 420, 0, 840)),
    ],
)
def test_all_stages_of_a_device_count(shard, microbatches, wanted):
    held = shares(Plan("line", Mesh(ROWS), GROUPS, microbatches, shard=shard))
    assert (held.weights, held.slots, held.brought, held.gradients) == wanted


def test_with_one_microbatch_gradients_are_those_of_two_stages_and_the_sums():
    rows = (("CPU:0",) * 8, ("CPU:1",) * 8)
    groups = tuple(LayerGroup((f"layer_{i}",), 25, 100, units=(i,), largest_bytes=50) for i in range(8))
    one, several = (shares(Plan("line", Mesh(rows), groups, number, shard="weights")) for number in (1, 2))
    assert (one.gradients, several.gradients) == (200 + 400, 800)


def test_the_largest_weight_is_not_divided():
    group = LayerGroup(("table",), 100, 400, largest_bytes=360)
    held = shares(Plan("line", Mesh((("CPU:0",), ("CPU:1",))), (group,), shard="weights", slots=1))
    assert (held.weights, held.slots, held.brought) == (360, 360, 400)
    assert held.total == 360 + 360 + 400 + held.gradients and held.gradients == 400
