"""The operations of a step laid out on its lanes."""

import pytest

from kparallel.schedule import Action
from kparallel.trace.events import Operation, RecordedStep
from kparallel.trace.intervals import length
from kparallel.trace.lanes import lanes_of
from tests.unit.made_steps import DATA, HYBRID, laid_out, step_of


def test_slices_stand_on_their_lanes():
    step, times = step_of(HYBRID, sums=0.5)
    lanes = laid_out(HYBRID, step)
    assert [(lane.lane.replica, lane.lane.device, lane.lane.stages) for lane in lanes] == [
        (0, "CPU:0", (0,)),
        (0, "CPU:1", (1,)),
        (1, "CPU:2", (0,)),
        (1, "CPU:3", (1,)),
    ]
    for lane in lanes:
        program = HYBRID.programs()[lane.lane.index]
        assert sorted(lane.slices, key=lane.slices.__getitem__) == list(program)
        for action, (start, end) in lane.slices.items():
            assert start - 12 == pytest.approx(times.start[action]) and end - 12 == pytest.approx(times.finish[action])
        assert len(lane.reduction) == 1 and length(lane.update) == pytest.approx(1.0)
    assert [lane.replica for lane in lanes_of(HYBRID, worker=1)] == [2, 2, 3, 3]


def test_a_slice_leaves_out_the_bits_that_run_elsewhere():
    operations = [Operation("0F0/big", "MatMul", 1.0, 3.0), Operation("0F0/bit", "Neg", 7.0, 7.05)]
    operations += [Operation("0B0/big", "MatMul", 3.0, 6.0), Operation("gradient_tape/0F0/bit", "Neg", 0.5, 0.51)]
    [lane, _] = laid_out(DATA, RecordedStep(0, 8, (0, 8), (), tuple(operations)))
    assert lane.slices == {Action(0, "F", 0): (1.0, 3.0), Action(0, "B", 0): (3.0, 6.0)}
    assert length(lane.work) == pytest.approx(5.06)


def test_calls_of_stages_tell_the_order_where_bits_take_as_long():
    """A lane runs 1F0, 1B0, 1F1, 1B1; labels are cast as the step starts, and the losses' bits run anywhere."""
    calls = {"1F0": (2.0, 3.0), "1B0": (4.0, 5.0), "1F1": (6.0, 7.0), "1B1": (8.0, 9.0)}
    work = [(f"{action}/PartitionedCall/dense/MatMul", *span) for action, span in calls.items()]
    work += [("1F1/Cast", 0.0, 1.5), ("gradient_tape/1F0/Less", 3.0, 3.1), ("1F0/Log", 3.1, 3.9)]
    work += [("1F0/Sum", 4.5, 5.5), ("gradient_tape/1F1/Less", 7.1, 7.9)]
    operations = tuple(Operation(name, "Mul", start, end) for name, start, end in work)
    lane = laid_out(HYBRID, RecordedStep(0, 10, (0, 10), (), operations))[1]
    assert [(str(action), span) for action, span in lane.slices.items()] == [
        ("1F0", (2.0, 3.0)),  # Its loss lasts on into 1B0's slice.
        ("1B0", (3.0, 5.0)),
        ("1F1", (6.0, 7.0)),
        ("1B1", (7.1, 9.0)),
    ]
