"""The recipe "add a schedule" of CONTRIBUTING, carried out; and what it promises of every schedule that has a name."""

from pathlib import Path

import keras
import numpy as np
import pytest

import kparallel
from kparallel.engine.executor import Executor
from kparallel.errors import ScheduleError
from kparallel.schedule import SCHEDULES, Action, NamedSchedule, by_name, chart, check, linear_order, programs_for
from tests.assertions import assert_fit_alike, doubles
from tests.choice import all_but
from tests.pairs import pair

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(11, 4)), RNG.normal(size=(11, 1))
STAGES, MICROBATCHES = 2, 3


def last_in_first_out(stages, microbatches):
    """All forward passes, then the backward passes from the last microbatch to the first."""
    passes = [("F", m) for m in range(microbatches)] + [("B", m) for m in reversed(range(microbatches))]
    return tuple(tuple(Action(stage, kind, m) for kind, m in passes) for stage in range(stages))


def dealt(lanes):
    """The same with the stages s, s + D, s + 2D, ... on lane s of D lanes, which run one after another."""

    def schedule(stages, microbatches):
        own = last_in_first_out(stages, microbatches)
        forward = [[a for stage in own[lane::lanes] for a in stage[:microbatches]] for lane in range(lanes)]
        backward = [[a for stage in own[lane::lanes][::-1] for a in stage[microbatches:]] for lane in range(lanes)]
        return tuple(tuple(f + b) for f, b in zip(forward, backward, strict=True))

    return schedule


NEW = {"lifo": NamedSchedule(lambda lanes: last_in_first_out), "dealt-lifo": NamedSchedule(dealt, dealt=True)}
NAMES = [*SCHEDULES, *NEW]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The one line of the registry, for these tests only."""
    for name, schedule in NEW.items():
        monkeypatch.setitem(SCHEDULES, name, schedule)


def layout(name):
    """Return stages and devices: two stages for each device where a schedule deals them, else one."""
    per_lane = 2 if SCHEDULES[name].dealt else 1
    return {"replicas": 1, "stages": per_lane * STAGES, "devices": ["CPU:0", "CPU:1"], "microbatches": MICROBATCHES}


def net():
    widths = enumerate((5, 4, 3, 1))
    layers = [keras.layers.Dense(width, activation="tanh", name=f"dense_{index}") for index, width in widths]
    return keras.Sequential([keras.Input((4,)), *layers], name="net")


def test_a_new_schedule_is_checked_and_drawn():
    programs = programs_for("LIFO", STAGES, MICROBATCHES)
    assert programs == by_name("lifo")(STAGES, MICROBATCHES) == last_in_first_out(STAGES, MICROBATCHES)
    assert chart(programs) == (
        "tick    0   1   2   3   4   5   6   7\n"
        "lane 0  0F0 0F1 0F2 .   .   0B2 0B1 0B0\n"
        "lane 1  .   1F0 1F1 1F2 1B2 1B1 1B0 ."
    )


def test_a_new_schedule_that_breaks_a_law_is_refused(monkeypatch):
    backwards = NamedSchedule(lambda lanes: lambda stages, microbatches: last_in_first_out(stages, microbatches - 1))
    monkeypatch.setitem(SCHEDULES, "short", backwards)
    with pytest.raises(ScheduleError, match="Action 0F2 is missing"):
        kparallel.plan(net(), schedule="short", **layout("short"))


@pytest.mark.parametrize("name", NAMES)
def test_every_schedule_with_a_name_obeys_the_laws(name):
    schedule = SCHEDULES[name]
    for lanes in range(1, 5):
        for stages in range(lanes, 9, lanes) if schedule.dealt else [lanes]:
            for microbatches in range(1, 17):
                check(schedule.make(lanes)(stages, microbatches), stages, microbatches)
        # Where several stages share a lane, as the mesh has them.
        homes = tuple(schedule.lane_of(stage, 2 * lanes, lanes) for stage in range(2 * lanes))
        check(programs_for(name, 2 * lanes, 5, homes), 2 * lanes, 5)


@pytest.mark.parametrize("name", all_but(NAMES, "gpipe", "1f1b"))
def test_every_schedule_with_a_name_trains_as_plain_keras(name, monkeypatch):
    doubles()
    orders = []
    run = Executor.run
    monkeypatch.setattr(
        Executor, "run", lambda self, order, inputs: [orders.append(order), run(self, order, inputs)][1]
    )
    plain, wrapped = pair(net, schedule=name, **layout(name))
    programs = programs_for(name, layout(name)["stages"], MICROBATCHES, wrapped.plan.lanes)
    assert chart(programs, names=["CPU:0", "CPU:1"]) in str(wrapped.plan)
    fit = {"x": X, "y": Y, "batch_size": 5, "epochs": 2}
    assert_fit_alike(wrapped, plain, lambda model: fit, lambda: {"optimizer": "adam", "loss": "mse"})
    assert linear_order(programs) in orders


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NEW])
def test_every_schedule_with_a_name_is_in_the_documents(name):
    root = Path(__file__).parents[2]
    assert f'| `"{name}"`' in (root / "docs" / "plans.md").read_text()
    assert f'`"{name}"`' in kparallel.plan.__doc__
