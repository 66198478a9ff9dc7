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
    ("shard", "weights", "slots", "brought"),
    # Of 840 trained bytes a half, and 400 that are frozen; brought are stages 0 and 1.
    [("weights", 400 + 420, 2 * 420, 800), ("optimizer", 1240, 2 * 420, 0)],
)
def test_all_stages_of_a_device_count(shard, weights, slots, brought):
    held = shares(Plan("line", Mesh(ROWS), GROUPS, shard=shard))
    assert (held.weights, held.slots, held.brought) == (weights, slots, brought)


def test_the_largest_weight_is_not_divided():
    group = LayerGroup(("table",), 100, 400, largest_bytes=360)
    held = shares(Plan("line", Mesh((("CPU:0",), ("CPU:1",))), (group,), shard="weights", slots=1))
    assert (held.weights, held.slots, held.brought, held.total) == (360, 360, 400, 1120)
