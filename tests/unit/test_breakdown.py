"""Where the time of a lane goes."""

import pytest

from kparallel.trace.breakdown import attribute_time
from kparallel.trace.events import Operation, RecordedStep
from tests.unit.made_steps import DATA, HYBRID, laid_out, step_of


def test_every_moment_has_one_cause():
    step, times = step_of(HYBRID, sums=0.5)
    lanes = laid_out(HYBRID, step)
    for lane in lanes:
        found = attribute_time(step, lane, lanes, stages=2, cores=None)
        assert sum(found.values()) == pytest.approx(step.end - step.start)
        assert found["work"] == pytest.approx(2 * 3 * (1.0, 3.0)[lane.lane.index])
        assert found["input"] == pytest.approx(1.0) and found["update"] == pytest.approx(1.0)
        assert found["reduction"] == pytest.approx(0.5)
        # A stage waits while the other one works: as the pipeline fills, within, and until it is empty.
        assert found["stage"] == pytest.approx(times.makespan - found["work"] - 0.5 * lane.lane.index)
        assert found["overhead"] == pytest.approx(2.0 + 0.5 * lane.lane.index)


def test_bits_of_work_before_a_slice_hide_no_wait():
    step, times = step_of(HYBRID, bit=0.01)
    lanes = laid_out(HYBRID, step)
    for lane in lanes:
        assert min(lane.slices.values())[0] == pytest.approx(12 + min(times.start[a] for a in lane.slices))
        found = attribute_time(step, lane, lanes, stages=2, cores=None)
        work = 2 * 3 * (1.0, 3.0)[lane.lane.index]
        assert found["stage"] == pytest.approx(times.makespan - work, abs=0.1)
        assert found.get("transfer", 0) <= 0.1


def test_the_faster_replica_waits_for_the_slower_ones_gradients():
    step, times = step_of(DATA, costs=(2.0,), sums=0.5, late=3.0)
    early, late = lanes = laid_out(DATA, step)
    assert attribute_time(step, early, lanes, 1, None)["reduction"] == pytest.approx(3.5)
    assert attribute_time(step, late, lanes, 1, None)["reduction"] == pytest.approx(0.5)
    assert attribute_time(step, late, lanes, 1, None)["overhead"] == pytest.approx(5.0)


def test_a_lane_without_a_core_is_told_from_overhead():
    operations = [Operation("0F0/a", "MatMul", 0, 4), Operation("replica_1/0F0/a", "MatMul", 4, 8)]
    step = RecordedStep(0, 8, (0, 8), (), tuple(operations))
    lanes = laid_out(DATA, step)
    found = [attribute_time(step, lane, lanes, 1, cores) for lane in lanes for cores in (1, None)]
    assert [f.get("sharing", 0) for f in found] == [4, 0, 4, 0]
    assert [f.get("overhead", 0) for f in found] == [0, 4, 0, 4]
