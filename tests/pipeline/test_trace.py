"""Recording a real `fit`: the files that `Trace` writes, and what `Throughput` says."""

import builtins
import json
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel import errors
from kparallel.callbacks import Throughput, Trace
from kparallel.forecast.configuration import Configuration
from kparallel.forecast.estimate import Estimate, StepTime
from kparallel.schedule import Action

L = keras.layers
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(1024, 8)).astype("float32"), RNG.normal(size=(1024, 4)).astype("float32")


def net(width=4):
    layers = [L.Dense(4, "tanh", name="light"), L.Dense(width, "tanh", name="heavy"), L.Dense(4, name="head")]
    return keras.Sequential([keras.Input((8,)), *layers], name="net")


def fit(model, *callbacks, batch_size=128, **more):
    arguments = {"x": X, "y": Y, "batch_size": batch_size, "verbose": 0, "shuffle": False, **more}
    return model.fit(callbacks=list(callbacks), **arguments)


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory):
    """A 2 x 2 hybrid whose second stage is much heavier, recorded for two steps; and the same without a recording."""
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        model = kparallel.wrap(net(2048), replicas=2, stages=[["light"], ["heavy", "head"]], microbatches=3)
        model.compile("adam", "mse")
        models.append(model)
    trace = Trace(tmp_path_factory.mktemp("trace") / "new", steps=2, verbose=False)
    fit(models[0], trace)
    fit(models[1])
    return models, trace


def test_each_action_stands_once_on_its_lane_in_the_schedules_order(hybrid):
    (model, _), trace = hybrid
    events = json.loads(trace.files[0].read_text())["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    lanes = [(0, "CPU:0", 0), (0, "CPU:1", 1), (1, "CPU:2", 0), (1, "CPU:3", 1)]
    assert list(names.values())[1:] == [f"{device}: replica {row}, stage {stage}" for row, device, stage in lanes]
    slices = [event for event in events if event["ph"] == "X"]
    for step in (0, 1):
        moments = {}
        for process, (replica, _, stage) in enumerate(lanes, start=1):
            own = [e for e in slices if e["pid"] == process and e["tid"] == 0 and e["args"]["step"] == step]
            assert [e["name"] for e in own] == [str(action) for action in model.plan.programs()[stage]]
            assert all(e["args"]["replica"] == replica for e in own)
            assert all(a["ts"] + a["dur"] <= b["ts"] + 0.01 for a, b in zip(own, own[1:], strict=False))
            moments |= {(replica, e["name"]): e for e in own}
            rest = {e["name"] for e in slices if e["pid"] == process and e["tid"] and e["args"]["step"] == step}
            assert {"reduction", "update"} <= rest <= {"reduction", "update", "other"}
        for (replica, name), event in moments.items():
            for need in Action.parse(name).needs(stages=2):
                # What it needs need not have ended: a stage passes gradients down before it is through with its own.
                assert moments[replica, str(need)]["ts"] < event["ts"]


def test_the_report_names_the_slowest_stage_and_the_picture_is_drawn(hybrid):
    _, trace = hybrid
    assert [file.name for file in trace.files] == ["trace.json", "trace.txt", "trace.png"]
    assert trace.files[1].read_text() == trace.report + "\n"
    assert "slowest stage  1 (heavy, head)" in trace.report
    assert trace.summary.slowest == 1 and trace.summary.imbalance > 1.25 and len(trace.summary.step_times) == 2
    assert trace.files[2].read_bytes().startswith(b"\x89PNG") and trace.files[2].stat().st_size > 10_000
    shares = vars(trace.summary.shares)
    assert sum(shares.values()) == pytest.approx(1.0) and all(share >= 0 for share in shares.values())
    assert shares["work"] > 0 and shares["stage"] > 0 and shares["update"] > 0


def test_recording_changes_nothing(hybrid):
    (recorded, plain), _ = hybrid
    for a, b in zip(recorded.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["data parallel", "plain", "several steps", "xla"])
def test_other_models_are_recorded(kind, tmp_path):
    model = net(256) if kind == "plain" else kparallel.wrap(net(256), replicas=2)
    model.compile("sgd", "mse", jit_compile=kind == "xla", steps_per_execution=2 if kind == "several steps" else 1)
    told = Estimate(Configuration(2), StepTime(1.0, 0, 0, 0, 0, 0, 0), 1.0, 128) if kind == "data parallel" else None
    trace = Trace(tmp_path, steps=2, start=1, picture=None, verbose=False, predicted=told)
    fit(model, trace, epochs=2)
    off = "prediction     predicted 1e+03 ms for a batch of 128 rows, measured "
    assert (off in trace.report) == (told is not None) == ("off by most is compute" in trace.report)
    events = json.loads(trace.files[0].read_text())["traceEvents"]
    actions = [(e["pid"], e["name"]) for e in events if e["ph"] == "X" and e["pid"] and e["tid"] == 0]
    devices = 1 if kind == "plain" else 2
    steps = 4 if kind == "several steps" else 2
    assert actions == [(pid, name) for _ in range(steps) for pid in range(1, devices + 1) for name in ("0F0", "0B0")]
    assert len(trace.summary.step_times) == steps and not list(tmp_path.glob("*.png"))
    assert trace.report.startswith(f"net: {devices} replica")


def test_an_epoch_that_ends_too_early_is_recorded_as_far_as_it_goes(tmp_path):
    model = kparallel.wrap(net(), replicas=2)
    model.compile("sgd", "mse")
    trace = Trace(tmp_path, steps=3, start=2, picture=None, verbose=False)
    # The first epoch leaves one step, which the profiler's start disturbs; the second one has three.
    fit(model, trace, batch_size=512, steps_per_epoch=3, epochs=3, validation_data=(X[:8], Y[:8]), x=tf_rows(), y=None)
    assert len(trace.summary.step_times) == 2
    with pytest.warns(UserWarning, match="fit ended before a step was recorded"):
        fit(model, Trace(tmp_path, start=90))


def tf_rows():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(512).repeat()


def test_without_matplotlib_the_json_is_written(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    model = kparallel.wrap(net(), replicas=2)
    model.compile("sgd", "mse")
    trace = Trace(tmp_path, steps=1, start=1, verbose=False)
    with pytest.warns(UserWarning, match=r"pip install 'kparallel\[plots\]'.*trace.json is written"):
        fit(model, trace)
    assert [file.name for file in trace.files] == ["trace.json", "trace.txt"]


def test_what_cannot_be_recorded_is_refused(tmp_path):
    for arguments in ({"steps": 0}, {"start": 0}, {"steps": 1.5}):
        with pytest.raises(ValueError, match="from 1 on"):
            Trace(tmp_path, **arguments)
    model = kparallel.wrap(net(), replicas=2)
    model.compile("sgd", "mse", run_eagerly=True)
    told = Estimate(Configuration(3), StepTime(1.0, 0, 0, 0, 0, 0, 0), 1.0, 128)
    with pytest.raises(errors.PlanError, match="Expected a prediction for the plan of the model, 2 replicas"):
        fit(model, Trace(tmp_path, predicted=told))
    plain = net()
    plain.compile("sgd", "mse")
    with pytest.raises(errors.PlanError, match="Expected a wrapped model to hold a prediction against"):
        fit(plain, Trace(tmp_path, predicted=told))
    with pytest.raises(ValueError, match="run_eagerly"):
        fit(model, Trace(tmp_path))
    model.compile("sgd", "mse")
    tf.profiler.experimental.start(str(tmp_path))
    try:
        trace = Trace(tmp_path, verbose=False)
        with pytest.warns(UserWarning, match="profiler runs already"):
            fit(model, trace)
    finally:
        tf.profiler.experimental.stop(save=False)
    assert trace.report == "" and int(model.optimizer.iterations) == 8


def test_a_slow_generator_is_input_bound(capsys):
    def rows():
        for start in range(0, 1024, 64):
            time.sleep(0.03)
            yield X[start : start + 64], Y[start : start + 64]

    spec = tuple(tf.TensorSpec((None, size), tf.float32) for size in (8, 4))
    model = kparallel.wrap(net(), replicas=2)
    model.compile("sgd", "mse")
    throughput = Throughput(64, explain=True)
    data = tf.data.Dataset.from_generator(rows, output_signature=spec)
    data = data.apply(tf.data.experimental.assert_cardinality(16))
    fit(model, throughput, x=data, y=None, epochs=2)
    assert throughput.explanation.startswith("input-bound: ") and throughput.summary.shares.input > 0.5
    assert capsys.readouterr().out == f"kparallel: {throughput.explanation}\n"


def test_a_tiny_model_is_too_small():
    model = kparallel.wrap(net(), replicas=2)
    model.compile("sgd", "mse")
    throughput = Throughput(8, explain=True)
    fit(model, throughput, x=X[:128], y=Y[:128], batch_size=8)
    assert throughput.explanation.startswith("too small: "), throughput.explanation
