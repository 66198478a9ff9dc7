"""Plans: what they refuse, when they are equal, what they print and draw."""

import sys
from dataclasses import replace

import pytest

from kparallel.errors import PlanError, ScheduleError
from kparallel.mesh import Mesh
from kparallel.planning.groups import layer_groups
from kparallel.planning.plan import LayerGroup, Plan
from kparallel.planning.report import between_lines
from kparallel.planning.units import Unit
from kparallel.schedule import gpipe, interleaved, one_f_one_b

UNITS = [
    Unit(f"dense_{i}", 100.0, 1000, 4000, 400, 40, (i - 1,) if i else (), (f"dense_{i}",)) for i in range(8)
]  # fmt: skip

TWO_BY_TWO = Mesh((("CPU:0", "CPU:1"), ("CPU:2", "CPU:3")))


def plan(mesh=TWO_BY_TWO, microbatches=4, units=UNITS, **options):
    stages = mesh.stages
    stage_of = [index * stages // len(units) for index in range(len(units))]
    return Plan("mlp", mesh, layer_groups(units, stage_of, stages), microbatches, **options)


PRINTED = """\
plan for 'mlp': 2 replicas x 2 stages, 4 microbatches, schedule 1f1b
            stage 0   stage 1
replica 0   CPU:0     CPU:1
replica 1   CPU:2     CPU:3

          layers   parameters   cost   weights   slots   activations   in flight   arriving
stage 0        4        4,000    50%     16 kB   32 kB       12.8 kB           2          -
stage 1        4        4,000    50%     16 kB   32 kB        6.4 kB           1      160 B
activations (at the peak) and arriving bytes (a microbatch's) are of 4 rows a microbatch

stage 0: dense_0, dense_1, dense_2, dense_3
stage 1: dense_4, dense_5, dense_6, dense_7

schedule (2F0: stage 2, forward, microbatch 0), the same on every replica:
tick   0   1   2   3   4   5   6   7   8   9
CPU:0  0F0 0F1 .   0B0 0F2 0B1 0F3 0B2 .   0B3
CPU:1  .   1F0 1B0 1F1 1B1 1F2 1B2 1F3 1B3 .
predicted: devices wait 20% of the time (bubble); a step takes 0.32 of one device's time"""


def test_a_plan_prints():
    assert str(plan(batch_size=32)) == PRINTED


def test_a_plan_prints_its_reason_recomputation_and_unknown_batch():
    text = str(plan(recompute="always", reason="because"))
    assert text.startswith("plan for 'mlp': 2 replicas x 2 stages, 4 microbatches, schedule 1f1b, recompute always\n")
    assert "of one row a microbatch; give batch_size" in text
    assert text.endswith("chosen: because")


def test_a_plan_warns_of_microbatches_for_loops_over_time():
    units = [replace(unit, loop_steps=64 * (index == 6)) for index, unit in enumerate(UNITS)]
    text = str(plan(units=units))
    assert "warning: recurrent layers loop over time (stage 1 64 time steps); unless each step computes much" in text
    assert "warning" not in str(plan(units=units, microbatches=1)) and "warning" not in str(plan())


def test_long_layer_lists_are_cut_short():
    mesh = Mesh((("CPU:0", "CPU:1"),))
    many = [Unit(f"u{i}", 1.0, 1, 4, 4, 4, (), (f"u{i}",)) for i in range(40)]
    assert "stage 0: u0, u1, u2, u3, u4, … 14 more …, u19" in str(plan(mesh, units=many))


def test_equality_is_of_decisions_not_of_estimates():
    assert plan() == plan(batch_size=32, slots=0, reason="because")
    assert hash(plan()) == hash(plan(batch_size=32))
    for other in [plan(microbatches=5), plan(schedule="gpipe"), plan(recompute="always")]:
        assert plan() != other
    assert plan() != Plan("other", TWO_BY_TWO, plan().groups, 4)


def test_workers_share_a_batch():
    alone, two = plan(batch_size=32), plan(batch_size=32, workers=2)
    assert str(two).startswith("plan for 'mlp': 4 replicas x 2 stages on 2 workers, 2 on each, 4 microbatches")
    assert (alone.rows_per_microbatch, two.rows_per_microbatch) == (4, 2)
    assert two.predict().step_time == pytest.approx(alone.predict().step_time / 2)


PLACED = """\
plan for 'own': 1 replica x 2 stages
            stage 0   stage 1
replica 0   CPU:0     CPU:1
stage 0: 2 layers, 30 parameters, 120 B of weights on each of CPU:0
stage 1: 1 layer, 10 parameters, 40 B of weights on each of CPU:1
stage 0: a, b
stage 1: c
no pipeline: the layers run one after another, each on its device"""


def test_a_plan_that_places_layers_only_prints_no_schedule():
    groups = LayerGroup(("a", "b"), 30, 120, share=0.75), LayerGroup(("c",), 10, 40, share=0.25)
    placed = Plan("own", Mesh((("CPU:0", "CPU:1"),)), groups)
    assert str(placed) == PLACED
    texts = [text.get_text() for text in placed.plot().axes[0].texts]
    assert not any("of the work" in text for text in texts)


def test_programs_fit_the_lanes():
    assert plan().programs() == one_f_one_b(2, 4)
    row = Mesh((("CPU:0", "CPU:1", "CPU:0", "CPU:1"),))
    assert plan(row, schedule="interleaved").programs() == interleaved(2)(4, 4)
    assert plan(row).lanes == (0, 1, 0, 1)
    assert plan(Mesh((("CPU:0", "CPU:0", "CPU:1", "CPU:1"),))).lanes == (0, 0, 1, 1)
    assert len(plan(Mesh((("CPU:0", "CPU:0"),))).programs()) == 1
    assert plan(schedule=gpipe) == plan(schedule=gpipe)


def test_what_a_plan_refuses():
    for options, text in [
        ({"microbatches": 0}, "at least 1 microbatch, received 0"),
        ({"recompute": "sometimes"}, "recompute to be one of .*received 'sometimes'"),
        ({"batch_size": 7}, "at most 4 microbatches for a batch of 7 rows.* a replica 4, received 5.*microbatches=4"),
        ({"schedule": "1f1f"}, "Did you mean '1f1b'?"),
    ]:
        with pytest.raises(PlanError, match=text):
            plan(**{"microbatches": 5} | options)
    with pytest.raises(PlanError, match="2 layer groups for this mesh, received 1"):
        Plan("mlp", TWO_BY_TWO, (LayerGroup(("a",), 1, 4),))
    with pytest.raises(ScheduleError, match="<-- here"):
        plan(schedule=lambda stages, microbatches: gpipe(stages, microbatches)[:1])


@pytest.mark.parametrize(
    "mesh", [TWO_BY_TWO, Mesh((("CPU:0",), ("CPU:1",))), Mesh((("CPU:0", "CPU:1", "CPU:0", "CPU:1"),))]
)
def test_a_plan_is_drawn(mesh, tmp_path):
    drawn = plan(mesh, batch_size=32)
    figure = drawn.plot(tmp_path / "plan.svg")
    assert (tmp_path / "plan.svg").read_text().startswith("<?xml")
    upper, lower = figure.axes
    texts = [text.get_text() for text in upper.texts]
    for stage in range(mesh.stages):
        assert f"stage {stage}" in texts
    for row in mesh.rows:
        assert set(row) <= set(texts)
    assert any("dense_0" in text for text in texts)
    labels = [text.get_text() for text in lower.texts]
    assert sorted(labels) == sorted(f"{a.kind}{a.microbatch}" for program in drawn.programs() for a in program)


def test_text_in_the_picture_does_not_leave_it():
    figure = plan(batch_size=32).plot()
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for text in [
        *figure.texts,
        *(text for axes in figure.axes for text in [*axes.texts, axes.title, axes.xaxis.label]),
    ]:
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, text
        assert box.y0 >= 0 and box.y1 <= figure.bbox.y1, text


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'kparallel\[plots\]'"):
        plan().plot()


def test_a_plan_over_machines_tells_what_passes_between_them_and_draws_where_they_meet():
    mesh = Mesh((("worker0/CPU:0", "worker0/CPU:1", "worker1/CPU:0"),))
    made = plan(mesh, batch_size=32)
    line = between_lines(made)[0]
    assert str(made).endswith(line) and line.startswith("worker 0 to worker 1: ")
    upper, lower = made.plot().axes
    assert lower.get_xlabel().endswith(line)
    dashed = [each for each in upper.lines if each.get_linestyle() == "--"]
    assert [each.get_xdata()[0] for each in dashed] == [pytest.approx(1.87)]
    assert not between_lines(plan(TWO_BY_TWO))
