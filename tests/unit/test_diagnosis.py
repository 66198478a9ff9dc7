"""What limits the speed of training, in one line."""

from dataclasses import replace

import pytest

from kparallel.trace.breakdown import Breakdown
from kparallel.trace.diagnosis import diagnose
from kparallel.trace.processes import Machine
from tests.unit.made_steps import DATA, HYBRID, step_of, summary_of


def verdict_of(machine=None, plan=HYBRID, **shares):
    summary = summary_of(plan, step_of(plan, costs=(2.0, 2.0)[: plan.mesh.stages]), machine=machine)
    return diagnose(replace(summary, shares=Breakdown(**shares)))


@pytest.mark.parametrize(
    ("shares", "name", "says"),
    [
        ({"work": 0.5, "input": 0.5}, "input-bound", "50% of a step's"),
        ({"work": 0.6, "reduction": 0.3, "overhead": 0.1}, "communication-bound", "30% of a step's"),
        ({"work": 0.6, "stage": 0.25, "overhead": 0.15}, "pipeline bubble", "25% of a step's"),
        ({"work": 0.2, "overhead": 0.6, "reduction": 0.2}, "too small", "60% of a step's"),
        ({"work": 0.6, "sharing": 0.3, "overhead": 0.1}, "shared cores", "without a core for 30%"),
        ({"work": 0.8, "update": 0.05, "overhead": 0.1, "stage": 0.05}, "scales well", "compute for 85%"),
    ],
)
def test_the_largest_cause_above_its_threshold_is_named(shares, name, says):
    found = verdict_of(Machine(cores=8), **shares)
    assert found.name == name and says in found.text and str(found).startswith(f"{name}: ")


def test_a_slow_stage_is_named_where_the_others_wait_for_it():
    summary = replace(summary_of(HYBRID, step_of(HYBRID)), shares=Breakdown(work=0.5, stage=0.5))
    found = diagnose(summary)
    assert found.name == "unbalanced stages"
    assert found.text.startswith("stage 1 (block, head) takes 1.5 times the mean stage's time, others wait 50%")


def test_virtual_devices_beyond_the_cores_are_named():
    assert verdict_of(Machine(cores=2, threads=2), DATA, work=1.0).name == "shared cores"
    assert verdict_of(Machine(cores=2, threads=1), DATA, work=1.0).name == "scales well"
    assert verdict_of(Machine(cores=None, threads=1), DATA, work=1.0).name == "scales well"


def test_waits_that_the_stages_do_not_explain_come_from_sharing_cores():
    summary = replace(
        summary_of(HYBRID, step_of(HYBRID)), bubble=0.6, shares=Breakdown(work=0.4, stage=0.25, sharing=0.15)
    )
    assert diagnose(replace(summary, cores=2)).name == "shared cores"
    assert diagnose(replace(summary, cores=4)).name == diagnose(summary).name == "unbalanced stages"


def test_a_known_efficiency_is_explained_by_the_largest_cause():
    summary = replace(
        summary_of(DATA, step_of(DATA, costs=(2.0,))), shares=Breakdown(work=0.8, reduction=0.15, input=0.05)
    )
    assert [diagnose(summary, known).name for known in (None, 0.9, 0.5)] == [
        "scales well",
        "scales well",
        "communication-bound",
    ]
