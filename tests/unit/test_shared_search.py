"""The number of stages where the replicas share the weights out."""

import pytest

from kparallel.errors import PlanError
from kparallel.planning.request import Request
from kparallel.planning.shared_search import choose_shared
from kparallel.planning.shares import shares
from kparallel.planning.units import Unit

# Of each 4,000 bytes of weights, and for each row 4,000 of activations, of which the first 1,000 arrive.
UNITS = [
    Unit(f"dense_{i}", 1e6, 1000, 4000, 4000, 1000, (i - 1,) if i else (), (f"dense_{i}",), largest_bytes=4000)
    for i in range(8)
]


def choose(memory, devices=("CPU:0", "CPU:1", "CPU:2", "CPU:3"), **options):
    return choose_shared(Request(UNITS, devices, batch_size=4, memory_per_device=memory, **options))


def test_as_few_stages_as_fit_and_recomputation_only_where_none_do():
    plans = [choose(memory) for memory in ("200kB", "100kB", "80kB", "60kB")]
    stages = [plan.mesh.stages for plan in plans]
    assert stages[0] == 1 and stages[:3] == sorted(stages[:3]) and stages[1] < stages[2]
    assert [plan.recompute for plan in plans] == ["never"] * 3 + ["always"]
    for plan, memory in zip(plans, (200e3, 100e3, 80e3, 60e3), strict=True):
        assert shares(plan).total <= memory and plan.shard == "weights" and plan.microbatches == 1
        assert {len(set(row)) for row in plan.mesh.rows} == {1} and plan.replicas == 4
    fewer = choose("1MB", stages=stages[1] - 1)
    assert shares(fewer).total > 100e3 and fewer.reason.startswith(f"{stages[1] - 1} stages on each device fit: ")


def test_what_is_given_is_kept_and_what_does_not_fit_is_refused():
    plan = choose("1MB", replicas=2, stages=3, microbatches=2, recompute="except_last")
    assert (plan.replicas, plan.mesh.stages, plan.microbatches, plan.recompute) == (2, 3, 2, "except_last")
    with pytest.raises(
        PlanError, match="none with shard='weights'. The closest miss is 8 stages .*'always', which needs"
    ):
        choose("1kB")
    with pytest.raises(PlanError, match="Expected at most 4 replicas"):
        choose("1MB", replicas=5)
    with pytest.raises(PlanError, match="Expected several replicas for shard='weights'"):
        choose("1MB", devices=["CPU:0"])
