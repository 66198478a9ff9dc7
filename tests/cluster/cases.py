"""Cases for several workers: the hard settings of the exactness table, and what only workers can get wrong."""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import kparallel
from kparallel.callbacks import StallWatchdog, Throughput, Trace, Warmup

L, opt = keras.layers, keras.optimizers
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(22, 4)), RNG.integers(0, 3, 22)
WEIGHTS = RNG.uniform(size=22)
TOKENS = RNG.integers(0, 7, (22, 5)).astype("int32")
TAGS = RNG.integers(0, 3, (22, 5))
SCCE = "sparse_categorical_crossentropy"


def mlp():
    inputs = keras.Input((4,))
    return keras.Model(inputs, L.Dense(3, activation="softmax")(L.Dense(6, activation="tanh")(inputs)))


def normed():
    inputs = keras.Input((4,))
    norm = L.BatchNormalization(synchronized=True)(L.Dense(6, activation="tanh")(inputs))
    return keras.Model(inputs, L.Dense(3, activation="softmax", kernel_regularizer="l2")(norm))


def two_inputs():
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    joined = L.Concatenate()([inputs["a"], inputs["b"]])
    return keras.Model(inputs, L.Dense(3, activation="softmax")(joined))


def masked():
    tokens = keras.Input((5,), dtype="int32")
    hidden = L.LSTM(4, return_sequences=True)(L.Embedding(7, 4, mask_zero=True)(tokens))
    return keras.Model(tokens, L.Dense(3, activation="softmax")(hidden))


def masked_dense():
    tokens = keras.Input((5,), dtype="int32")
    hidden = L.Dense(6, activation="tanh")(L.Embedding(7, 4, mask_zero=True)(tokens))
    return keras.Model(tokens, L.Dense(3, activation="softmax")(hidden))


def masked_by_weights():
    """What is masked, and so what the loss is divided by, depends on the weights."""
    tokens = keras.Input((5,), dtype="int32")
    hidden = L.Masking()(L.Dense(2, activation="relu")(L.Embedding(7, 4)(tokens)))
    return keras.Model(tokens, L.Dense(3, activation="softmax")(hidden))


def deep():
    x = inputs = keras.Input((4,))
    for index in range(4):
        x = L.Dense(5, activation="tanh", name=f"dense_{index}")(x)
    return keras.Model(inputs, L.Dense(3, activation="softmax")(x))


def normed_deep():
    x = inputs = keras.Input((4,))
    for index in range(2):
        x = L.Dense(5 + index, activation="tanh", kernel_regularizer="l2", name=f"dense_{index}")(x)
        x = L.BatchNormalization(synchronized=True)(x)
    return keras.Model(inputs, L.Dense(3, activation="softmax")(x))


@dataclass(frozen=True)
class Case:
    """One model, how it is compiled and what is done with it; `run` returns numbers that must agree.

    Each number must equal that of plain Keras within `tolerance`, but for those named in `unequal`.
    """

    compile: Callable[[], dict[str, Any]]
    build: Callable[[], keras.Model] = mlp
    job: Callable[[keras.Model], dict[str, Any]] | None = None
    fit: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    floatx: str = "float64"
    policy: str | None = None
    tolerance: float = 1e-9
    unequal: tuple[str, ...] = ()

    def run(self, model: keras.Model) -> tuple[dict[str, Any], list[str]]:
        model.compile(**self.compile())
        return (self.job or self._fit)(model), []

    def _fit(self, model: keras.Model) -> dict[str, Any]:
        x, y = (TOKENS, TAGS) if self.build is masked else (X, Y)
        arguments = {"batch_size": 5, "epochs": 2, "shuffle": False, "verbose": 0} | self.fit
        return {f"history_{k}": v for k, v in model.fit(x, y, **arguments).history.items()}


def by_hand(model):
    """Everything but fit; 9 and 13 rows do not divide by 2 or 3 workers."""
    numbers = {}
    for step in range(2):
        numbers[f"train{step}"] = model.train_on_batch(X[:9], Y[:9], sample_weight=WEIGHTS[:9])
    numbers["test"] = model.test_on_batch(X[:1], Y[:1])
    numbers["evaluate"] = model.evaluate(X[:13], Y[:13], batch_size=8, verbose=0)
    numbers["predict"] = model.predict(X[:13], batch_size=8, verbose=0)
    numbers["predict_on_batch"] = model.predict_on_batch(X[:4])
    return numbers


def few_rows(model):
    """Batches that give two or three workers another number of microbatches each, or no row."""
    numbers = {}
    for step, size in enumerate((5, 1, 5)):
        numbers[f"train{step}"] = model.train_on_batch(TOKENS[step : step + size], TAGS[step : step + size])
    numbers["evaluate"] = model.evaluate(TOKENS[:8], TAGS[:8], batch_size=5, verbose=0)
    numbers["predict"] = model.predict(TOKENS[:6], batch_size=5, verbose=0)
    return numbers


def last_rows_first(stages, microbatches):
    """A schedule of one lane whose last stage runs on the last microbatch first, which a worker with few rows lacks."""
    actions = [f"{s}F{m}" for s in range(stages - 1) for m in range(microbatches)]
    for m in reversed(range(microbatches)):
        actions += [f"{stages - 1}F{m}", f"{stages - 1}B{m}"]
        actions += [f"{s}B{m}" for s in reversed(range(stages - 1))]
    return [actions]


def from_dataset(model):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(5)
    weighted = {"class_weight": {0: 0.5, 1: 2.0, 2: 1.0}}
    history = model.fit(data, epochs=2, verbose=0, validation_data=(X[:7], Y[:7]), **weighted).history
    return {f"history_{k}": v for k, v in history.items()}


def from_generator(model):
    def batches():
        while True:
            for start in range(0, 20, 4):
                yield X[start : start + 4], Y[start : start + 4]

    history = model.fit(batches(), epochs=2, steps_per_epoch=5, verbose=0).history
    return {f"history_{k}": v for k, v in history.items()}


def from_dicts(model):
    x = {"a": X, "b": X[:, ::-1]}
    history = model.fit(x, Y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    return {
        "evaluate": model.evaluate(x, Y, verbose=0),
        "predict": model.predict(x, verbose=0),
        **{f"history_{k}": v for k, v in history.items()},
    }


def from_records(model):
    """Files of 9, 1 and 3 rows: the shards are not equal, and every row counts once."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for index, rows in enumerate((range(9), range(9, 10), range(10, 13))):
            files.append(f"{folder}/{index}.tfrecord")
            with tf.io.TFRecordWriter(files[-1]) as writer:
                for row in rows:
                    writer.write(np.append(X[row], Y[row]).tobytes())

        def parse(record):
            numbers = tf.reshape(tf.io.decode_raw(record, tf.float64), [5])
            return numbers[:4], numbers[4]

        if isinstance(model, kparallel.ParallelModel):
            data = kparallel.read_records(files, parse, batch_size=4, seed=3)
        else:
            data = tf.data.TFRecordDataset(files).map(parse).batch(4).apply(tf.data.experimental.assert_cardinality(4))
        history = model.fit(data, epochs=2, verbose=0, validation_data=(X[:3], Y[:3])).history
        return {"evaluate": model.evaluate(data, verbose=0), **{f"history_{k}": v for k, v in history.items()}}


def worker_index():
    """Return this worker's index, None without a cluster."""
    return json.loads(os.environ["TF_CONFIG"])["task"]["index"] if "TF_CONFIG" in os.environ else None


def with_callbacks(model):
    """The rate and what follows from it; the speed is a number of each worker's own."""
    stalls = []
    throughput = Throughput(5, single_replica=1e9, explain=True)
    callbacks = [Warmup(scale=3, steps=6), throughput, StallWatchdog(report=stalls.append)]
    history = model.fit(X, Y, batch_size=5, epochs=2, shuffle=False, verbose=0, callbacks=callbacks).history
    rates = [history.pop(key) for key in ("samples_per_second", "samples_per_second_per_replica", "scaling_efficiency")]
    replicas = getattr(model.distribute_strategy, "num_replicas_in_sync", 1)
    np.testing.assert_allclose(np.divide(rates[0], rates[1]), replicas)
    assert not stalls and np.min(rates) > 0
    assert bool(throughput.explanation) == (worker_index() in (None, 0))
    return {f"history_{k}": v for k, v in history.items()}


def traced(model):
    """The chief records its own replica; on others TensorFlow's profiler is not safe."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Trace(folder, steps=2, start=1, picture=None)
        history = model.fit(X, Y, batch_size=5, epochs=2, shuffle=False, verbose=0, callbacks=[trace]).history
        events = json.loads(trace.files[0].read_text())["traceEvents"] if trace.files else []
    if worker_index():
        assert not trace.files and not trace.report
    elif worker_index() == 0:
        assert [file.name for file in trace.files] == ["trace-worker-0.json", "trace-worker-0.txt"]
        slices = [e for e in events if e["ph"] == "X" and e["pid"] and e["tid"] == 0]
        actions = [(e["args"]["step"], e["args"]["replica"], e["name"]) for e in slices]
        programs = model.plan.programs()
        want = [(step, 0, str(action)) for step in range(2) for program in programs for action in program]
        assert actions == want, (actions, want)
        assert {e["name"] for e in events if e["ph"] == "X"} >= {"reduction", "update"}
    return {f"history_{k}": v for k, v in history.items()}


class Failing(keras.callbacks.Callback):
    """Fails in the second epoch, on every worker."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 8:
            raise ValueError("It fails.")


def resumed(model):
    """The chief alone writes files, between steps too; a training that failed goes on from them."""
    arguments = {"batch_size": 5, "epochs": 2, "shuffle": False, "verbose": 0}
    if worker_index() is None:
        return {f"history_{k}": v for k, v in model.fit(X, Y, **arguments).history.items()}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = kparallel.callbacks.Checkpoint(f"{folder}/steps", every_steps=2)
        try:
            model.fit(X, Y, callbacks=[checkpoint, Failing()], **arguments)
        except (ValueError, kparallel.errors.WorkerError) as error:
            assert "It fails." in str(error)
        file = f"{folder}/model.keras"
        callbacks = [keras.callbacks.ModelCheckpoint(file), kparallel.callbacks.Checkpoint(f"{folder}/steps")]
        history = model.fit(X, Y, callbacks=callbacks, **arguments).history
        if worker_index() == 0:
            loaded = keras.saving.load_model(file)
            for kind in ("variables", "optimizer.variables"):
                written, now = (keras.tree.map_structure(np.array, attrgetter(kind)(each)) for each in (loaded, model))
                np.testing.assert_equal(written, now)
    return {f"history_{k}": v for k, v in history.items()}


def each_of_two():
    """Two optimizers, each of which clips its own weights."""
    chosen = {"dense_[0-2]/.*": opt.SGD(0.1, momentum=0.9, global_clipnorm=0.05)}
    return opt.MultiOptimizer(opt.OptimizerMap(opt.Adam(0.01, clipvalue=0.1), chosen))


@keras.saving.register_keras_serializable("tests")
class Heavy(opt.Optimizer):
    """Momentum, as a user writes an optimizer, with a rate for each weight by its number."""

    def build(self, variables):
        super().build(variables)
        self.momenta = [self.add_variable_from_reference(each, "momentum") for each in variables]

    def update_step(self, gradient, variable, learning_rate):
        number = self._get_variable_index(variable)
        momentum = self.momenta[number]
        self.assign(momentum, 0.9 * momentum + gradient)
        rate = keras.ops.cast(learning_rate, variable.dtype) / (1 + number / len(self.momenta))
        self.assign_sub(variable, rate * momentum)


def messages(model):
    """Texts of any length reach every worker whole and in order; also on the border of one exchange."""
    texts = [lambda i: "", lambda i: "ä" * i, lambda i: "x" * (1020 + i), lambda i: "zß" * 3000 * i, lambda i: "end"]
    group = model._kparallel.placement.group if isinstance(model, kparallel.ParallelModel) else None
    for text in texts if group else []:
        assert group.all_gather_text(text(group.worker_index)) == [text(i) for i in range(group.workers)]
    return {"loss": model.train_on_batch(X[:4], Y[:4])}


def case(optimizer: Callable[[], Any], **more: Any) -> Case:
    return Case(lambda: {"optimizer": optimizer(), "loss": SCCE, "weighted_metrics": ["accuracy"]}, **more)


CASES = {
    "adam": case(lambda: opt.Adam(0.01)),
    "momentum_validation": case(lambda: opt.SGD(0.1, momentum=0.9), fit={"validation_split": 0.3}),
    "clipnorm": case(lambda: opt.SGD(0.5, clipnorm=0.05)),
    "global_clipnorm": case(lambda: opt.SGD(0.5, global_clipnorm=0.05)),
    "accumulation": case(lambda: opt.Adam(0.01, gradient_accumulation_steps=2)),
    "ema": case(lambda: opt.SGD(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2)),
    "mask": case(lambda: opt.SGD(0.1), build=masked),
    "sample_weight": case(lambda: opt.SGD(0.1), fit={"sample_weight": WEIGHTS}),
    "normed": case(lambda: opt.SGD(0.1), build=normed),
    "steps_per_execution": Case(
        lambda: (
            {"optimizer": opt.SGD(0.1), "loss": SCCE, "metrics": [keras.metrics.MeanMetricWrapper(own_metric, "own")]}
            | {"steps_per_execution": 2}
        )
    ),
    "dice": Case(lambda: {"optimizer": opt.SGD(0.1), "loss": keras.losses.Dice()}, job=lambda m: one_hot(m)),
    "mixed_float16": case(lambda: opt.SGD(0.1), floatx="float32", policy="mixed_float16", tolerance=2e-3),
    "compressed": case(lambda: opt.SGD(0.1), options={"gradient_compression": "bfloat16"}, tolerance=5e-3),
    "messages": case(lambda: opt.SGD(0.1), job=messages),
    "by_hand": case(lambda: opt.Adam(0.01), job=by_hand),
    "dataset": case(lambda: opt.SGD(0.1), job=from_dataset),
    "generator": case(lambda: opt.SGD(0.1), job=from_generator),
    # With a rate of 0 the loss of an epoch is the mean over its rows in whatever order.
    # Shards of unequal files take more steps, of fewer rows each: slot0 counts the steps.
    "records": case(lambda: opt.SGD(0.0), job=from_records, unequal=("slot0",)),
    "callbacks": case(lambda: opt.SGD(0.05, momentum=0.9), job=with_callbacks),
    "dicts": case(lambda: opt.SGD(0.1), build=two_inputs, job=from_dicts),
}
# Stages lie on the worker's own devices; each worker is one replica.
PIPELINES = {
    "pipeline": case(lambda: opt.Adam(0.01), build=deep, job=traced, options={"stages": 2, "microbatches": 2}),
    "pipeline_clipped": case(
        lambda: opt.Adam(0.01, global_clipnorm=0.1),
        build=deep,
        options={"stages": 2, "schedule": "gpipe", "microbatches": 1},
    ),
}
CASES |= PIPELINES


def accumulating():
    return opt.AdamW(0.01, gradient_accumulation_steps=2, global_clipnorm=0.05)


def averaging():
    return opt.SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2)


def scaling():
    return opt.LossScaleOptimizer(opt.Muon(0.01, global_clipnorm=0.05), initial_scale=8.0)


SHARDED = {
    "sharded": case(lambda: opt.Adam(0.01, global_clipnorm=0.05), options={"shard": "optimizer"}, job=resumed),
    "sharded_own": case(lambda: Heavy(0.1, global_clipnorm=0.05), options={"shard": "optimizer"}),
    "sharded_by_hand": case(lambda: opt.Nadam(0.01, clipnorm=0.1), options={"shard": "optimizer"}, job=by_hand),
    "sharded_accumulation": case(
        accumulating,
        build=deep,
        options={"shard": "optimizer", "stages": 2, "microbatches": 2},
    ),
    "sharded_average": case(
        averaging,
        build=masked,
        fit={"callbacks": [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)], "validation_data": (TOKENS, TAGS)},
        options={"shard": "optimizer"},
    ),
    "sharded_scaled": case(
        scaling,
        options={"shard": "optimizer"},
    ),
    "sharded_several": case(lambda: each_of_two(), build=deep, options={"shard": "optimizer"}),
}
CASES |= SHARDED
# Both stages on one device of each worker, where their weights are brought in turn; or a device for each.
IN_TURN = {"shard": "weights", "stages": 2, "replicas": 2, "devices": ["CPU:0"]}
WEIGHTS_SHARED = {
    "weights": case(lambda: opt.Adam(0.01, global_clipnorm=0.05), options={"shard": "weights"}, job=resumed),
    "weights_own": case(
        lambda: Heavy(0.1, global_clipnorm=0.05),
        build=deep,
        options=IN_TURN,
        job=resumed,
    ),
    "weights_in_turn": case(lambda: opt.Adam(0.01), build=normed_deep, options=IN_TURN, job=by_hand),
    "weights_accumulation": case(
        accumulating,
        build=deep,
        options=IN_TURN | {"stages": 3, "recompute": "always"},
    ),
    "weights_microbatches": case(
        lambda: opt.Adam(0.01, global_clipnorm=0.05),
        build=masked_dense,
        job=few_rows,
        options=IN_TURN | {"microbatches": 3},
    ),
    "weights_split": case(
        lambda: opt.SGD(0.1, momentum=0.9),
        build=deep,
        job=by_hand,
        options=IN_TURN | {"stages": 3, "microbatches": 4, "schedule": "zb_h1", "recompute": "except_last"},
    ),
    "weights_gpipe": case(
        lambda: opt.AdamW(0.01, gradient_accumulation_steps=2),
        build=masked,
        fit={"validation_data": (TOKENS, TAGS)},
        options=IN_TURN | {"microbatches": 2, "schedule": "gpipe", "recompute": "always"},
    ),
    "weights_in_denominators": case(
        lambda: opt.SGD(0.1), build=masked_by_weights, job=few_rows, options=IN_TURN | {"microbatches": 2}
    ),
    "weights_backwards": case(
        lambda: opt.SGD(0.1),
        build=masked_dense,
        job=few_rows,
        options=IN_TURN | {"microbatches": 3, "schedule": last_rows_first},
    ),
    "weights_whole_batch": Case(
        lambda: {"optimizer": opt.SGD(0.1), "loss": lambda y, p: tf.reduce_sum(tf.abs(y - p)) / tf.reduce_sum(p[:, 0])},
        build=deep,
        job=lambda m: evaluated_first(m) | one_hot(m),
        options=IN_TURN | {"microbatches": 3},  # Of 5 rows one worker has 3 microbatches, the other 2.
    ),
    "weights_pipeline": case(
        lambda: opt.Adam(0.01),
        build=deep,
        options={"shard": "weights", "stages": 4, "replicas": 2, "microbatches": 3, "devices": ["CPU:0", "CPU:1"]},
    ),
    "weights_average": case(
        averaging,
        build=masked,
        fit={"callbacks": [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)], "validation_data": (TOKENS, TAGS)},
        options={"shard": "weights"},
    ),
    "weights_scaled": case(
        scaling,
        build=deep,
        options=IN_TURN,
    ),
    "weights_traced": case(
        lambda: opt.Adam(0.01), build=deep, job=traced, options={"shard": "weights", "stages": 2, "replicas": 2}
    ),
}
CASES |= WEIGHTS_SHARED


def own_metric(y_true, y_pred):
    return keras.ops.mean(y_pred, axis=-1) + keras.ops.cast(y_true, y_pred.dtype)


def evaluated_first(model):
    """What the loss needs is found in an evaluation, whose batches give one worker a microbatch more than the other."""
    return {"evaluated": model.evaluate(X[:7], np.eye(3)[Y[:7]], batch_size=3, verbose=0)}


def one_hot(model):
    history = model.fit(X, np.eye(3)[Y], batch_size=5, epochs=2, shuffle=False, verbose=0).history
    return {f"history_{k}": v for k, v in history.items()}
