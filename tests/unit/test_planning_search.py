"""The chosen plan: plain data parallelism where it fits, else the fastest that does, else the closest miss."""

import itertools
import random
from dataclasses import replace

import pytest

from kparallel.errors import DeviceError, PlanError
from kparallel.mesh import Mesh
from kparallel.planning import search
from kparallel.planning.cut import partition
from kparallel.planning.groups import layer_groups
from kparallel.planning.plan import Plan
from kparallel.planning.request import Request
from kparallel.planning.units import Unit

DEVICES = [f"GPU:{index}" for index in range(4)]


def choose(units, devices, batch_size, memory_per_device=None, rows_of=None, shard=None, **fixed):
    request = Request(units, devices, batch_size, memory_per_device, **fixed)
    return search.choose(request, rows_of=rows_of, shard=shard)


def chain(number, weight_bytes=400, kept=100, output=10, spread=0.0, seed=0):
    source = random.Random(seed)
    return [
        Unit(
            f"dense_{i}", source.lognormvariate(10, spread), weight_bytes // 4, weight_bytes, kept, output,
            (i - 1,) if i else (), (f"dense_{i}",),
        )
        for i in range(number)
    ]  # fmt: skip


def fullest(plan):
    return max(float(plan.memory(stage).total) for stage in range(plan.mesh.stages))


def test_plain_data_parallelism_wins_whenever_it_fits():
    for batch_size, limit in [(32, None), (32, 19200), (4, "13.6 kB")]:
        plan = choose(chain(8), DEVICES, batch_size, limit)
        assert (plan.mesh.replicas, plan.mesh.stages, plan.microbatches, plan.recompute) == (4, 1, 1, "never")
        assert plan.reason.startswith("plain data parallelism fits")
    # Weights, gradients and two slots: 4 * 3200 bytes; what eight rows keep: 6400 bytes.
    assert fullest(choose(chain(8), DEVICES, 32, 19200)) == 19200
    assert choose(chain(8), DEVICES, 32, 19199).microbatches > 1


def test_no_more_replicas_than_rows():
    assert choose(chain(8), DEVICES, 3).mesh.replicas == 3


def test_big_weights_need_stages():
    plan = choose(chain(8, spread=0.5), DEVICES, 32, 12000)
    assert plan.mesh.stages > 1
    assert fullest(plan) <= 12000
    assert "plain data parallelism needs 19.2 kB" in plan.reason
    assert plan.batch_size == 32


def test_the_best_of_all_that_fit():
    """Against trying everything, every cut included."""
    devices, batch_size = DEVICES[:3], 7
    for seed, limit in itertools.product(range(4), (4000, 6000, 8000, 12000)):
        units = chain(5, weight_bytes=400, kept=120, output=60, spread=0.7, seed=seed)
        times = []
        for r, s in [(3, 1), (2, 1), (1, 1), (1, 2), (1, 3)]:
            for m, policy in itertools.product((1, 2, 3, 4, 6), ("never", "except_last", "always")):
                if m > -(-batch_size // r):
                    continue
                for inner in itertools.combinations(range(1, 5), s - 1):
                    starts = (0, *inner)
                    stage_of = [sum(i >= start for start in starts) - 1 for i in range(5)]
                    rows = tuple(tuple(devices[row * s : row * s + s]) for row in range(r))
                    groups = layer_groups(units, stage_of, s)
                    plan = Plan("model", Mesh(rows), groups, m, recompute=policy, batch_size=batch_size)
                    if fullest(plan) <= limit:
                        times.append(plan.predict().step_time)
        if times:
            found = choose(units, devices, batch_size, limit)
            assert fullest(found) <= limit
            assert found.predict().step_time == pytest.approx(min(times), rel=1e-9)
        else:
            with pytest.raises(PlanError, match="closest miss"):
                choose(units, devices, batch_size, limit)


def test_what_shares_a_state_stays_together():
    units = chain(6)
    units[4] = replace(units[4], stays_with=1)
    plan = choose(units, DEVICES, 32, replicas=1, stages=3)
    assert [group.units for group in plan.groups] == [(0,), (1, 2, 3, 4), (5,)]
    with pytest.raises(PlanError, match="at most 3 stages"):
        choose(units, DEVICES, 32, stages=4)


def test_nothing_fits():
    with pytest.raises(PlanError) as error:
        choose(chain(8), DEVICES, 32, "1kB")
    text = str(error.value)
    assert "there is none. The closest miss is 1 replica x 4 stages, 32 microbatches, recompute always" in text
    assert "needs 3.43 kB" in text
    assert "a smaller batch_size (now 32)" in text


def test_what_the_user_fixed_stays():
    plan = choose(chain(8), DEVICES, 32, replicas=1, stages=2, microbatches=5, recompute="always")
    assert (plan.mesh.rows, plan.microbatches, plan.recompute) == ((("GPU:0", "GPU:1"),), 5, "always")
    with pytest.raises(PlanError, match="received replicas=4, stages=2"):
        choose(chain(8), DEVICES, 32, replicas=4, stages=2)
    with pytest.raises(PlanError, match="batch_size=0"):
        choose(chain(8), DEVICES, 0)
    with pytest.raises(DeviceError, match="more than once"):
        choose(chain(8), ["GPU:0", "GPU:0"], 32)


def test_frozen_weights_need_no_gradients_and_no_slots():
    units = [replace(unit, frozen_bytes=unit.weight_bytes if i < 6 else 100) for i, unit in enumerate(chain(8))]
    need = 3200 + 3 * 600 + 8 * 800
    plan = choose(units, DEVICES, 32, need)
    assert (plan.mesh.stages, fullest(plan)) == (1, need)
    assert choose(units, DEVICES, 32, need - 1).microbatches > 1


def test_about_four_microbatches_for_each_stage():
    for stages in (2, 4, 8):
        plan = choose(chain(16), [f"GPU:{i}" for i in range(stages)], 256, replicas=1, stages=stages)
        assert 2 * stages <= plan.microbatches <= 8 * stages


def test_a_big_graph_is_cut():
    units = chain(300, weight_bytes=4000, spread=1.0)
    assert len(partition([u.flops_per_row for u in units], 8, units)) == 8
