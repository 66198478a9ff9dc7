"""Forecasts of Keras models: no weight takes memory, and every option is heeded or refused."""

import keras
import pytest
from click.testing import CliRunner

import kparallel
from kparallel import errors
from kparallel.compat.weightless import build_weightless
from kparallel.forecast.hardware import Hardware, Link
from kparallel.forecast.hardware_file import hardware_text
from kparallel.launcher.cli import main

NODE = Hardware(
    "node", 4, 8e9, {"float32": 1e12, "bfloat16": 4e12}, 0.5, Link(1e10, 1e-5), 4, Link(1e9, 1e-4), 1e11, 1e-4
)


def huge():
    """Return a model of 10 terabytes."""
    x = inputs = keras.Input((10**6,))
    for index in range(3):
        x = keras.layers.Dense(10**6, name=f"dense_{index}")(x)
    return keras.Model(inputs, keras.layers.Dropout(0.5)(x), name="huge")


def small(dtype=None):
    x = inputs = keras.Input((64,))
    for index in range(6):
        x = keras.layers.Dense(64, name=f"dense_{index}", dtype=dtype)(x)
    return keras.Model(inputs, x, name="small")


def test_a_builder_is_called_where_weights_take_no_memory():
    big = Hardware("big", 4, 1e15, {"float32": 1e15}, 0.5, Link(1e12, 1e-6))
    made = kparallel.plan(huge, cluster=big, batch_size=64)
    assert made.model_name == "huge" and made.best[0].memory > 3e12
    # What Keras initializes at the end of the next scope is not that model.
    with keras.StatelessScope():
        late = keras.Variable(lambda shape, dtype: keras.ops.ones(shape, dtype), shape=(2,))
    assert late.numpy().tolist() == [1, 1]


def test_weightless_models_have_shapes():
    model = build_weightless(small)
    assert model.count_params() == 6 * (64 * 64 + 64) and model.weights[0].shape == (64, 64)


def test_a_forecast_is_printed():
    text = str(kparallel.plan(small, cluster=NODE, batch_size=4096, devices=8))
    lines = text.splitlines()
    assert lines[0] == (
        "forecast for 'small' on 2 machines of 'node', 8 devices, batches of 4,096 rows: predicted, not measured"
    )
    assert lines[1].split() == ["step", "rows/s", "memory", "bound", "by", "plan"] and lines[2].startswith("1   ")
    assert "the first is bound by " in text and "the fastest that kparallel runs today is " in text


def test_the_way_to_run_it_is_accepted_by_plan():
    made = kparallel.plan(small, cluster=NODE, batch_size=64, devices=4, stages=2, microbatches=2)
    assert {each.configuration.stages for each in made.best} == {2}
    line = str(made).splitlines()[-1]
    options = line[line.index("(model, ") + 8 : -1]
    plan = kparallel.plan(
        small(), devices=["CPU:0", "CPU:1"], **eval(f"dict({options})") | {"replicas": 1, "shard": None}
    )
    assert (plan.mesh.stages, plan.microbatches) == (2, 2)


def test_layers_compute_at_the_pace_of_their_dtype():
    single, half = (
        kparallel.plan(lambda dtype=dtype: small(dtype), cluster=NODE, batch_size=10**6, replicas=1, stages=1)
        for dtype in ("float32", "mixed_bfloat16")
    )
    assert half.best[0].time.compute < single.best[0].time.compute
    with pytest.raises(errors.PlanError, match="Expected the FLOP/s of float16 in the cluster 'node'"):
        kparallel.plan(lambda: small("float16"), cluster=NODE, batch_size=8)


def test_shared_weights_are_counted():
    made = kparallel.plan(small, cluster=NODE, batch_size=64, devices=4, shard="weights", stages=3, microbatches=1)
    assert {(each.configuration.stages, each.configuration.lanes) for each in made.best} == {(3, 1)}
    assert "3 stages, 1 microbatch, all on one device" in str(made)
    line = str(made).splitlines()[-1]  # The way to run it, which `plan` accepts.
    options = eval(f"dict({line[line.index('(model, ') + 8 : -1]})")
    plan = kparallel.plan(small(), devices=[f"CPU:{index}" for index in range(4)], **options)
    assert (plan.shard, plan.mesh.stages, set(plan.lanes)) == ("weights", 3, {0})


def test_times_may_be_measured_here():
    made = kparallel.plan(small, cluster=NODE, batch_size=64, balance="time", devices=1)
    assert made.best[0].time.compute > 0


@pytest.mark.parametrize(
    "options, said",
    [
        ({}, "Expected batch_size along with cluster"),
        ({"batch_size": 8, "memory_per_device": "1GB"}, "received memory_per_device as well"),
        ({"batch_size": 8, "stages": ["dense_3"]}, "received a cut by hand as well"),
        ({"batch_size": 8, "schedule": lambda s, m: []}, "Expected the name of a schedule along with cluster"),
        ({"batch_size": 8, "balance": "parameters"}, "'flops' or 'time' along with cluster"),
        ({"batch_size": 8, "devices": ["GPU:0"]}, "Expected devices as a number along with cluster"),
        ({"batch_size": 8, "replicas": 99}, "16 devices, a batch of 8 rows"),
        ({"batch_size": 8, "recompute": "sometimes"}, "Expected recompute to be one of"),
    ],
)
def test_options_are_refused(options, said):
    with pytest.raises(errors.PlanError, match=said):
        kparallel.plan(small, cluster=NODE, **options)


def test_a_number_of_devices_needs_a_cluster():
    with pytest.raises(errors.PlanError, match="Expected the names of devices, received 4"):
        kparallel.plan(small, devices=4)


def test_a_builder_of_something_else():
    with pytest.raises(errors.ModelError, match="Expected a builder that returns a keras.Model, received int"):
        kparallel.plan(lambda: 3, cluster=NODE, batch_size=8)


def test_scaling_is_drawn(tmp_path):
    made = kparallel.plan(small, cluster=NODE, batch_size=256, stages=1, recompute="never")
    found = made.scaling()
    assert found.tried == (1, 2, 4, 8, 16) and set(found.weak) == set(found.strong) == {1, 2, 4, 8, 16}
    assert found.weak[1].batch_size == 16 and found.strong[1].batch_size == 256
    assert found.weak[16] == found.strong[16] == made.best[0]
    made.plot(tmp_path / "scaling.svg")
    drawn = (tmp_path / "scaling.svg").read_text()
    assert "</svg>" in drawn


BUILDER = """
import keras
def build():
    x = inputs = keras.Input((64,))
    for index in range(4):
        x = keras.layers.Dense(64)(x)
    return keras.Model(inputs, x, name="mine")
"""


def test_the_command_forecasts_and_draws(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "forecast_builder.py").write_text(BUILDER)
    (tmp_path / "node.toml").write_text(hardware_text(NODE))
    command = ["plan", "forecast_builder:build", "--batch-size", "64", "--devices", "8", "--cluster"]
    done = CliRunner().invoke(main, [*command, "node.toml", "--stages", "1", "--plot", "scaling.svg"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("forecast for 'mine' on 2 machines of 'node', 8 devices, batches of 64 rows")
    assert (tmp_path / "scaling.svg").exists()
    refused = CliRunner().invoke(main, [*command, "nodes.toml"])
    assert refused.exit_code == 1 and "Error: Expected the path of a cluster file or one of '8xA100'" in refused.output
