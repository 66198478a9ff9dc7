"""The laws of schedules, for every number of stages up to 8 and of microbatches up to 32."""

import itertools

import pytest

from kparallel.errors import PlanError, ScheduleError
from kparallel.schedule import (
    Action,
    by_name,
    chart,
    check,
    clock,
    fold,
    forward_only,
    gpipe,
    in_flight,
    interleaved,
    linear_order,
    one_f_one_b,
    programs_for,
)

SIZES = list(itertools.product(range(1, 9), range(1, 33)))
# (lanes, stages on each) with at most 8 stages
SHAPES = [(lanes, per_lane) for lanes in range(1, 5) for per_lane in range(2, 9) if lanes * per_lane <= 8]


def obeys(programs, stages, microbatches, backward=True):
    """Say by a reading of its own, not by `check`, whether every action occurs once and after what it reads."""
    order = linear_order(programs)
    kinds = "FB" if backward else "F"
    assert len(order) == stages * microbatches * len(kinds)
    assert set(order) == {Action(s, k, m) for s in range(stages) for k in kinds for m in range(microbatches)}
    at = {(action.stage, action.kind, action.microbatch): index for index, action in enumerate(order)}
    for stage, kind, microbatch in at:
        if kind == "F" and stage:
            assert at[stage - 1, "F", microbatch] < at[stage, "F", microbatch]
        if kind == "B":
            assert at[stage, "F", microbatch] < at[stage, "B", microbatch]
            if stage + 1 < stages:
                assert at[stage + 1, "B", microbatch] < at[stage, "B", microbatch]
    for program in programs:
        assert [action for action in order if action in set(program)] == list(program)


@pytest.mark.parametrize("schedule", [gpipe, one_f_one_b])
def test_one_stage_per_lane(schedule):
    for stages, microbatches in SIZES:
        programs = schedule(stages, microbatches)
        check(programs, stages, microbatches)
        obeys(programs, stages, microbatches)
        for forward, backward in ((1, 1), (1, 2)):
            makespan = clock(programs, forward, backward).makespan
            assert makespan == (microbatches + stages - 1) * (forward + backward)
        bubble = (stages - 1) / (microbatches + stages - 1)
        assert clock(programs, 1, 2).bubble == pytest.approx(bubble, abs=1e-12)


def test_memory():
    for stages, microbatches in SIZES:
        assert in_flight(gpipe(stages, microbatches)) == (microbatches,) * stages
        held = in_flight(one_f_one_b(stages, microbatches))
        assert held == tuple(min(microbatches, stages - stage) for stage in range(stages))


@pytest.mark.parametrize(("lanes", "per_lane"), SHAPES)
def test_interleaved(lanes, per_lane):
    stages = lanes * per_lane
    for microbatches in range(1, 33):
        programs = interleaved(lanes)(stages, microbatches)
        check(programs, stages, microbatches)
        obeys(programs, stages, microbatches)
        for lane, program in enumerate(programs):
            assert {action.stage for action in program} == set(range(lane, stages, lanes))
        for forward, backward in ((1, 1), (1, 2)):
            makespan = clock(programs, forward, backward).makespan
            pair = forward + backward
            if microbatches % lanes == 0:
                assert makespan == (microbatches * per_lane + lanes - 1) * pair
            # Never worse than 1F1B over `lanes` stages that are `per_lane` times as long.
            assert makespan <= (microbatches + lanes - 1) * per_lane * pair
        # Megatron's limit of what a lane holds: the passes of its warm-up and one more.
        for lane, program in enumerate(programs):
            held = itertools.accumulate(1 if action.kind == "F" else -1 for action in program)
            assert max(held) <= 2 * (lanes - lane - 1) + (per_lane - 1) * lanes + 1


def test_interleaved_with_one_stage_each_is_1f1b():
    assert interleaved(3)(3, 5) == one_f_one_b(3, 5)


def test_interleaved_beats_folded_1f1b():
    for lanes, per_lane in [(2, 2), (2, 4), (4, 2)]:
        homes = [stage % lanes for stage in range(lanes * per_lane)]
        for microbatches in range(lanes, 33):
            better = clock(interleaved(lanes)(lanes * per_lane, microbatches), 1, 2).makespan
            assert better <= clock(fold(one_f_one_b(lanes * per_lane, microbatches), homes), 1, 2).makespan


def test_forward_only():
    for stages, microbatches in SIZES:
        programs = forward_only(stages, microbatches)
        check(programs, stages, microbatches, backward=False)
        obeys(programs, stages, microbatches, backward=False)
        assert clock(programs).makespan == microbatches + stages - 1
        assert in_flight(programs) == (0,) * stages


@pytest.mark.parametrize("schedule", [gpipe, one_f_one_b, forward_only])
def test_fold(schedule):
    backward = schedule is not forward_only
    for stages, microbatches in [(2, 1), (2, 5), (4, 3), (4, 8), (6, 7), (8, 4)]:
        for lanes in range(1, stages):
            for homes in ([s % lanes for s in range(stages)], [s * lanes // stages for s in range(stages)]):
                programs = fold(schedule(stages, microbatches), homes)
                check(programs, stages, microbatches, backward=backward)
                obeys(programs, stages, microbatches, backward=backward)
                for own in schedule(stages, microbatches):
                    home = programs[homes[own[0].stage]]
                    assert tuple(action for action in home if action.stage == own[0].stage) == own
        alone = fold(schedule(stages, microbatches), [0] * stages)
        assert clock(alone).bubble == 0


def test_clock_counts_transfers_between_lanes_only():
    apart, together = one_f_one_b(2, 1), fold(one_f_one_b(2, 1), [0, 0])
    assert clock(apart, 1, 2, transfer=0.5).makespan == 7
    assert clock(together, 1, 2, transfer=0.5).makespan == 6
    assert clock(apart, [1, 2], [3, 4]).makespan == 10


def test_actions_print_and_parse():
    for stage, kind, microbatch in itertools.product((0, 3, 12), "FB", (0, 7, 31)):
        action = Action(stage, kind, microbatch)
        assert str(action) == f"{stage}{kind}{microbatch}"
        assert Action.parse(str(action)) == action
    for text in ("", "F0", "2X0", "2F", "2F0 ", "-1F0", "2f0"):
        with pytest.raises(ScheduleError, match="Expected an action such as '2F0'"):
            Action.parse(text)
    with pytest.raises(ScheduleError, match="received 0, 'W' and 0"):
        Action(0, "W", 0)


def read(*lanes):
    return tuple(tuple(map(Action.parse, lane.split())) for lane in lanes)


BROKEN = {
    "missing": (
        read("0F0 0F1 0B0 0B1", "1F0 1B0 1F1"),
        """
Action 1B1 is missing: expected every stage to run F and B on every microbatch.
lane 0  0F0 0F1 0B0 0B1
lane 1  1F0 1B0 1F1
                    ^^^ <-- here""",
    ),
    "repeated": (
        read("0F0 0F1 0B0 0B1", "1F0 1B0 1F0 1F1 1B1"),
        """
Action 1F0 is repeated: expected every action once.
lane 0  0F0 0F1 0B0 0B1
lane 1  1F0 1B0 1F0 1F1 1B1
                ^^^ <-- here""",
    ),
    "unknown": (
        read("0F0 0F1 0B0 0B1", "1F0 1B0 1F2 1B1"),
        """
Unknown action 1F2: expected stages 0 to 1, microbatches 0 to 1 and kinds F and B.
lane 0  0F0 0F1 0B0 0B1
lane 1  1F0 1B0 1F2 1B1
                ^^^ <-- here""",
    ),
    "two lanes": (
        read("0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1", "1F1"),
        """
Action 1F1 is repeated: expected every action once.
lane 0  0F0 0F1 0B0 0B1
lane 1  1F0 1B0 1F1 1B1
lane 2  1F1
        ^^^ <-- here""",
    ),
    "split stage": (
        read("0F0 0F1 0B0 1B1", "1F0 1B0 1F1 0B1"),
        """
Stage 1 is on lane 0 and on lane 1: expected one lane.
lane 0  0F0 0F1 0B0 1B1
lane 1  1F0 1B0 1F1 0B1
        ^^^ <-- here""",
    ),
    "too early on its own lane": (
        read("0F0 0F1 0B0 0B1", "1F0 1B1 1F1 1B0"),
        """
The order waits for itself: 1B1 on lane 1 waits for 1F1, which comes later on lane 1.
lane 0  0F0 0F1 0B0 0B1
lane 1  1F0 1B1 1F1 1B0
            ^^^ <-- here""",
    ),
    "deadlock between lanes": (
        read("0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1"),
        """
The order waits for itself: 0B0 on lane 0 waits for 1B0, which comes later on lane 1; \
1F1 on lane 1 waits for 0F1, which comes later on lane 0.
lane 0  0F0 0B0 0F1 0B1
            ^^^ <-- here
lane 1  1F0 1F1 1B0 1B1""",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_schedule_is_refused_with_a_mark(case):
    programs, text = BROKEN[case]
    with pytest.raises(ScheduleError) as error:
        check(programs, 2, 2)
    assert str(error.value) == text.strip("\n")


def test_every_dropped_or_doubled_action_is_refused():
    good = one_f_one_b(3, 4)
    for lane, program in enumerate(good):
        for at in range(len(program)):
            for changed in (program[:at] + program[at + 1 :], (*program, program[at])):
                with pytest.raises(ScheduleError, match="<-- here"):
                    check((*good[:lane], changed, *good[lane + 1 :]), 3, 4)


def test_the_mark_stays_in_sight():
    programs = one_f_one_b(2, 40)
    broken = (programs[0][:60] + programs[0][61:], programs[1])
    with pytest.raises(ScheduleError, match="missing") as error:
        check(broken, 2, 40)
    assert "<-- here" in str(error.value)
    assert max(map(len, str(error.value).split("\n"))) <= 100
    with pytest.raises(ScheduleError) as error:
        check((programs[0][:40] + programs[0][:1] + programs[0][40:], programs[1]), 2, 40)
    lines = str(error.value).split("\n")
    mark = lines[2].index("^")
    assert lines[1][mark : mark + 3] == "0F0"


PICTURE = """
tick    0   1   2   3   4   5   6   7   8   9   10  11  12  13
lane 0  0F0 0F1 0F2 0F3 .   .   .   0B0 .   0B1 .   0B2 .   0B3
lane 1  .   1F0 1F1 1F2 .   .   1B0 1F3 1B1 .   1B2 .   1B3 .
lane 2  .   .   2F0 2F1 .   2B0 2F2 2B1 2F3 2B2 .   2B3 .   .
lane 3  .   .   .   3F0 3B0 3F1 3B1 3F2 3B2 3F3 3B3 .   .   .
"""


def test_chart_of_1f1b():
    assert chart(one_f_one_b(4, 4)) == PICTURE.strip("\n")


def test_a_wide_chart_says_what_it_leaves_out():
    text = chart(one_f_one_b(2, 32), names=["GPU:0", "GPU:1"], width=40)
    lines = text.split("\n")
    assert lines[1] == "GPU:0  0F0  0F1  .    0B0  0F2  0B1 …"
    assert lines[-1] == "… 60 more of 66 ticks"
    assert max(map(len, lines)) <= 40


def test_names():
    assert by_name("GPipe") is gpipe
    assert by_name("1f1b") is one_f_one_b
    assert by_name("interleaved", 2)(4, 4) == interleaved(2)(4, 4)
    with pytest.raises(PlanError, match="received '1f1'. Did you mean '1f1b'?"):
        by_name("1f1")
    with pytest.raises(PlanError, match="Did you mean 'interleaved'?"):
        by_name("interleave")
    with pytest.raises(PlanError, match="number of lanes"):
        by_name("interleaved")
    with pytest.raises(PlanError, match="multiple of the 2 devices in a row, received 3. Use 4 stages"):
        interleaved(2)(3, 4)


def test_programs_for():
    assert programs_for("1f1b", 4, 8) == one_f_one_b(4, 8)
    assert programs_for("interleaved", 4, 8, (0, 1, 0, 1)) == interleaved(2)(4, 8)
    assert programs_for("1f1b", 2, 8, (0, 0)) == fold(one_f_one_b(2, 8), (0, 0))
    with pytest.raises(PlanError, match="in turn"):
        programs_for("interleaved", 4, 8, (0, 0, 1, 1))


def test_a_schedule_of_the_users_own():
    def own(stages, microbatches):
        return [[f"{s}{k}{m}" for k in "FB" for m in range(microbatches)] for s in range(stages)]

    assert programs_for(own, 3, 2) == gpipe(3, 2)
    assert programs_for(lambda s, m: own(s, m)[::-1], 2, 2) == gpipe(2, 2)
    assert programs_for(own, 2, 2, (0, 0)) == fold(gpipe(2, 2), (0, 0))
    for bad, text in [
        (lambda s, m: "0F0", "received '0F0'"),
        (lambda s, m: ["0F0"], "received the lane '0F0'"),
        (lambda s, m: [[3]], "received the action 3"),
        (lambda s, m: [["0W0"]], "received '0W0'"),
        (lambda s, m: [], "Action 0F0 is missing"),
    ]:
        with pytest.raises(ScheduleError, match=text):
            programs_for(bad, 2, 2)
    with pytest.raises(ScheduleError, match=r"received 2 programs with the stages on the lanes \(0, 1, 0, 1\)"):
        programs_for(interleaved(2), 4, 4, (0, 0, 1, 1))
