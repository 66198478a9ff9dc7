"""The script of one program over two machines with two devices each, held against plain Keras.

It prints a line for each case and for what is refused, freezes the other machine, and goes on training.
"""

import contextlib
import io
import json
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np

import kparallel
from kparallel import errors

L = keras.layers
TOLERANCE = 1e-9
WORKER = "/job:worker/replica:0/task:{}/device:CPU:{}"
ROWS = np.random.default_rng(0).normal(size=(22, 6))
CLASSES = np.random.default_rng(1).integers(0, 3, 22)


def build(normalization=L.LayerNormalization):
    """Four layers, with a value that skips one."""
    inputs = keras.Input((6,))
    first = L.Dense(8, activation="tanh", name="first")(inputs)
    middle = normalization(name="middle")(L.Dense(8, name="second")(first))
    return keras.Model(inputs, L.Dense(3, name="last")(L.Add(name="skip")([first, middle])), name="model")


def trained(model, folder, optimizer):
    """Train a model, and return all its numbers: weights, slots, history, evaluation, predictions, saved weights."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    best = keras.callbacks.ModelCheckpoint(folder / f"{id(model)}.keras", monitor="val_loss", save_best_only=True)
    history = model.fit(
        ROWS, CLASSES, batch_size=8, epochs=2, verbose=0, validation_data=(ROWS, CLASSES), callbacks=[best]
    ).history
    saved = keras.models.load_model(best.filepath)
    return [
        *model.get_weights(),
        *(variable.numpy() for variable in model.optimizer.variables),
        *(np.array(values) for _, values in sorted(history.items())),
        np.array(model.evaluate(ROWS, CLASSES, verbose=0)),
        model.predict(ROWS, verbose=0),
        *saved.get_weights(),
    ]


def devices(variable):
    return [copy.device for copy in variable.value.values]


def check_devices(model, columns):
    """Weights and slots of a stage are on its machine, and nowhere else."""
    for weight in model.trainable_variables:
        layer = weight.path.split("/")[-2]
        stage = next(index for index, group in enumerate(model.plan.groups) if layer in group.layers)
        slots = [slot for slot in model.optimizer.variables if slot.path.split("/")[1].startswith(f"{layer}_")]
        assert slots, weight.path
        for variable in [weight, *slots]:
            assert devices(variable) == columns[stage], (variable.path, devices(variable))


def synchronized(name):
    return L.BatchNormalization(synchronized=True, name=name)


def equals_plain(folder, columns, optimizer, normalization=L.LayerNormalization, **options):
    keras.utils.set_random_seed(3)
    want = trained(build(normalization), folder, optimizer())
    keras.utils.set_random_seed(3)
    model = kparallel.wrap(lambda: build(normalization), **options)
    got = trained(model, folder, optimizer())
    assert len(got) == len(want)
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)
    check_devices(model, columns)
    return model


# what is refused: (call, error, words of the message)
REFUSED = {
    "one stage": (lambda: kparallel.wrap(build()), errors.PlanError, "only this one would train"),
    "too many stages": (lambda: kparallel.wrap(build(), stages=5), errors.PlanError, "at most 4 stages"),
    "too many replicas": (lambda: kparallel.wrap(build(), stages=2, replicas=3), errors.PlanError, "2 on worker 1"),
    "init": (kparallel.init, errors.ClusterError, "Remove the line"),
    "unknown": (lambda: kparallel.wrap(build(), stages=2, devices=["worker2/CPU:0"]), errors.DeviceError, "worker2"),
    "mixed": (
        lambda: kparallel.wrap(build(), stages={"CPU:0": ["first"], "worker1/GPU:0": ["*"]}),
        errors.DeviceError,
        "worker1/GPU:0",
    ),
    "stage 0 elsewhere": (
        lambda: kparallel.wrap(build(), stages={"worker1/CPU:0": ["first", "second"], "CPU:0": ["middle", "last"]}),
        errors.PlanError,
        "stage 0 on worker 0",
    ),
    "memory": (
        lambda: kparallel.wrap(build(), memory_per_device="1kB", batch_size=8),
        errors.PlanError,
        "there is none",
    ),
}


def record(model, folder):
    """Both machines' devices do what the plan says, in its order, in each recorded step."""
    trace = kparallel.callbacks.Trace(folder / "trace", steps=2, picture="svg", verbose=False)
    model.fit(ROWS, CLASSES, batch_size=8, epochs=3, verbose=0, callbacks=[trace])
    events = json.loads(trace.files[0].read_text())["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    ends = {}
    for stage, worker in enumerate(("worker0/CPU:1", "worker1/CPU:1")):
        pid = next(pid for pid, name in names.items() if name.startswith(f"{worker}: replica 0, stage {stage}"))
        slices = [event for event in events if event["ph"] == "X" and event["pid"] == pid and event["tid"] == 0]
        for step in range(2):
            done = [event["name"] for event in slices if event["args"]["step"] == step]
            assert done == list(map(str, model.plan.programs()[stage])), (worker, done)
        ends |= {(e["args"]["step"], e["name"]): e["ts"] + e["dur"] for e in slices}
        for event in slices:  # A stage begins when the one before it has ended: both are on one clock.
            need = {"1F": "0F", "0B": "1B"}.get(event["name"][:2])
            end = ends.get((event["args"]["step"], f"{need}{event['name'][2:]}"))
            assert end is None or event["ts"] > end - 1000, (event, end)
    between, memory = trace.report.splitlines()[-3:-1]
    assert between.startswith("between        worker 0 to worker 1: ") and "for each row of a batch" in between
    assert memory.startswith("memory         of each process: worker 0 on 127.0.0.1 ") and "worker 1 on" in memory
    told = kparallel.callbacks.Throughput(8, explain=True)
    with contextlib.redirect_stdout(io.StringIO()):
        model.fit(ROWS, CLASSES, batch_size=8, epochs=3, verbose=0, callbacks=[told])
    between, memory = told.explanation.split(" Between: ")[1].split(" Memory: ")
    assert between.startswith("worker 0 to worker 1: ") and "for a batch of 8 rows" in between
    assert memory.startswith("of each process: worker 0 on 127.0.0.1 ")


def chosen(model):
    """Where the memory is said the plan has a stage on each machine, and a device holds no more."""
    least = sum(4 * group.weight_bytes for group in model.plan.groups)
    plan = kparallel.plan(build(), memory_per_device=least, batch_size=8)
    assert {name.partition("/")[0] for row in plan.mesh.rows for name in row} == {"worker0", "worker1"}, plan
    assert plan.reason.endswith("a device")


def refuse(model):
    for name, (call, error, words) in REFUSED.items():
        try:
            call()
        except error as raised:
            assert words in str(raised), (name, str(raised))
        else:
            raise AssertionError(f"{name} was not refused")
    os.environ["TF_CONFIG"] = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}'
    try:
        kparallel.wrap(build(), stages=2)
    except errors.ClusterError as raised:
        assert "leave TF_CONFIG alone" in str(raised)
    del os.environ["TF_CONFIG"]


def other_process():
    """Return the process id of the server: the other child of the launcher that runs a worker."""
    launcher = os.getppid()
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_text()
        if "bootstrap" in command and int(child) != os.getpid():
            return int(child)
    raise AssertionError("there is no other worker")


class Freeze(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        os.kill(other_process(), signal.SIGSTOP)


def main(folder):
    keras.config.set_floatx("float64")
    every = [[WORKER.format(task, index) for index in range(2)] for task in range(2)]
    model = equals_plain(folder, every, keras.optimizers.Adam, synchronized, stages=2, microbatches=1)
    print("two replicas of two stages", model.plan.mesh.rows, flush=True)
    by_name = {"CPU:1": ["first", "second"], WORKER.format(1, 1): ["middle", "skip", "last"]}
    ends = [[WORKER.format(task, 1)] for task in range(2)]
    model = equals_plain(
        folder, ends, lambda: keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=0.5), stages=by_name, microbatches=3
    )
    print("one replica, by name", model.plan.mesh.rows, flush=True)
    record(model, folder)
    print("recorded", flush=True)
    chosen(model)
    refuse(model)
    print("refused", flush=True)
    model.fit(ROWS, CLASSES, batch_size=8, verbose=0, callbacks=[Freeze()])
    print("trained with a frozen machine")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
