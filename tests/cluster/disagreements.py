"""What goes wrong on one worker only, and what may differ between workers: the cases of `test_disagreements.py`.

The workers run them in this order, in one process each. What a case leaves behind must not disturb the next one.
"""

import contextlib
import gc
import json
import re
import time
import weakref

import keras
import numpy as np
import tensorflow as tf

import kparallel
from kparallel.compat.optimizers import slots_by_weight
from kparallel.compat.variables import variable_of_workers
from tests.cluster.outcomes import agrees, fails_on, raises, raises_each, returns

L, C = keras.layers, keras.callbacks
X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = X[:, :1]


def net(units=3, optimizer="sgd", loss="mse", **options):
    inputs = keras.Input((4,))
    model = kparallel.wrap(keras.Model(inputs, L.Dense(1)(L.Dense(units, activation="tanh")(inputs))), **options)
    model.compile(optimizer, loss)
    return model


def fit(model, x=X, **arguments):
    y = x[:, :1] if isinstance(x, np.ndarray) else None
    arguments = {"batch_size": None if y is None else 4, "epochs": 2, "verbose": 0, **arguments}
    return model.fit(x, y, **arguments).history["loss"]


def dataset(rows, seed=0):
    return tf.data.Dataset.from_tensor_slices((X[:rows], Y[:rows])).shuffle(16, seed=seed).batch(4)


def generated(read):
    return tf.data.Dataset.from_generator(read, output_signature=(tf.TensorSpec([None, 4]), tf.TensorSpec([None, 1])))


def unsized(batches):
    return generated(lambda: ((X[start : start + 4], Y[start : start + 4]) for start in range(batches)))


def on_one(worker, **changes):
    """Return a callback that changes the model at some hooks, on worker 1 only."""
    callback = C.Callback()
    for hook, change in changes.items() if worker.index else ():
        setattr(callback, hook, lambda *_, logs=None, change=change: change(callback.model))
    return callback


def halve_rate(model):
    model.optimizer.learning_rate = 0.005


def stop(model):
    model.stop_training = True


def zero_weights(model):
    model.set_weights([0 * weight for weight in model.get_weights()])


# What may differ.


class Batches(keras.utils.PyDataset):
    """Which Keras shuffles by default, by Python's own generator."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows = X[4 * index : 4 * index + 4]
        return rows, rows[:, :1]


@agrees
def shuffled_batches(worker):
    return fit(net(), Batches())


class Fitting(keras.Model):
    """A class with a `fit` of its own."""

    def fit(self, x, y, epochs=3, **options):
        return super().fit(x, y, epochs=epochs, **options)


@returns(lambda one, other: one == other and len(one) == 3)
def own_fit(worker):
    inputs = keras.Input((4,))
    model = kparallel.wrap(Fitting(inputs, L.Dense(1)(inputs)))
    model.compile("sgd", "mse")
    return model.fit(X, Y, batch_size=4, verbose=0).history["loss"]


@returns(lambda one, other: one == other and len(one) == 1)
def stopped_by_a_callback_in_a_list(worker):
    return fit(net(), callbacks=C.CallbackList([on_one(worker, on_epoch_end=stop)]))


@agrees
def divided_and_weighed(worker):
    model = net(loss=keras.losses.MeanSquaredError())
    y = np.arange(16) % 2

    def own_rows(context):
        rows = tf.data.Dataset.from_tensor_slices((X, y[:, None].astype("int32")))
        return rows.shard(context.num_input_pipelines, context.input_pipeline_id).batch(4)

    data = model.distribute_strategy.distribute_datasets_from_function(own_rows)
    return model.fit(data, class_weight={0: 1.0, 1: 3.0}, verbose=0, epochs=2).history["loss"]


@agrees
def backup_of_chief(worker):
    kept = C.BackupAndRestore(worker.folder / "backup_of_chief")
    return fit(net(), callbacks=[] if worker.index else [kept])


@returns(lambda one, other: one == other == [0, 1])
def stopped_in_a_step(worker):
    """Worker 1 alone stops in the second step, by a function."""
    model, steps = net(), []

    def note(batch, logs):
        steps.append(batch)
        model.stop_training = worker.index == 1 and batch == 1

    fit(model, callbacks=[C.LambdaCallback(on_train_batch_end=note)])
    return steps


@agrees
def words(worker):
    """Strings as inputs, and a metric that has to see all rows."""
    texts = np.array(["a b", "b c", "c d", "d a"] * 4)
    inputs = keras.Input((), dtype="string")
    tokens = L.TextVectorization(vocabulary=["a", "b", "c", "d"], output_sequence_length=2)(inputs)
    model = kparallel.wrap(keras.Model(inputs, L.Dense(1)(L.Flatten()(L.Embedding(8, 3)(tokens)))))

    def largest(y, outputs):
        return keras.ops.max(outputs) + keras.ops.zeros_like(y[:, 0])

    model.compile("sgd", "mse", metrics=[largest])
    data = tf.data.Dataset.from_tensor_slices((texts, Y)).batch(4)
    return model.fit(data, verbose=0).history["largest"]


@agrees
def sparse(worker):
    return net().predict(tf.sparse.from_dense(X), verbose=0).tolist()


# What is to be seen on each worker.


def no_message_for_a_step(one, other):
    (short, long), same = one, one == other
    return short == long < 20 and same


@returns(no_message_for_a_step)
def messages(worker):
    """How many messages `fit` takes for epochs of 4 and of 16 steps with a validation, whose sizes are known."""
    model, counts = net(), []
    group = model._kparallel.placement.group
    gather = group.all_gather_text
    group.all_gather_text = lambda text: counts.append(text) or gather(text)
    numbers = []
    for batch_size in (4, 1):
        counts.clear()
        kept = C.ModelCheckpoint(worker.folder / "messages.keras")
        fit(model, batch_size=batch_size, validation_data=(X, Y), callbacks=[kept])
        numbers.append(len(counts))
    return numbers


WRITTEN = ["backup", "best.keras", "board", "exported", "log.csv", "model.keras", "model.weights.h5"]


@returns(lambda one, other: one == [WRITTEN, True] and other == [[], True])
def files(worker):
    """What each worker wrote into a folder of its own, and whether it restored what the chief wrote."""
    own = worker.folder / f"files{worker.index}"
    own.mkdir()
    model = net()
    callbacks = [
        C.ModelCheckpoint(own / "best.keras"),
        C.BackupAndRestore(own / "backup", delete_checkpoint=False),
        C.TensorBoard(own / "board"),
        C.CSVLogger(own / "log.csv"),
    ]
    fit(model, callbacks=callbacks)
    model.save(own / "model.keras")
    model.save_weights(own / "model.weights.h5")
    model.export(own / "exported", verbose=False)
    written = sorted(path.relative_to(own).parts[0] for path in own.glob("*"))
    fit(model, epochs=1)  # Both are here after it: the chief has written.
    model.load_weights(worker.folder / "files0" / "model.weights.h5")
    plain = keras.models.load_model(worker.folder / "files0" / "model.keras")
    same = all(np.array_equal(one, other) for one, other in zip(model.get_weights(), plain.get_weights(), strict=True))
    return [written, same]


def names_the_slow_worker(one, other):
    said = re.compile(
        r"worker 0 has not finished step 2: nothing for .*"
        r"nor has worker 1 \(127\.0\.0\.1:\d+\), at disagreements\.py:\d+ in on_train_batch_begin",
        re.DOTALL,
    )
    return bool(said.fullmatch(one))


@returns(names_the_slow_worker)
def stall(worker):
    """What the watchdog of worker 0 says, while worker 1 stands still in one step until it has said so."""
    told = worker.folder / "stall.txt"

    class Slow(C.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            deadline = time.monotonic() + 120
            while worker.index == 1 and batch == 2 and not told.exists() and time.monotonic() < deadline:
                time.sleep(0.05)

    def report(message):
        # A slow machine may take two seconds for another step, too.
        if worker.index == 0 and "step 2" in message and "nor has worker 1" in message:
            told.write_text(message)

    model = net()
    fit(model, epochs=1)
    watchdog = kparallel.callbacks.StallWatchdog(2.0, worker.folder / "signs", report, interval=0.1)
    fit(model, epochs=1, callbacks=[watchdog, Slow()])
    return told.read_text()


# What differs and is refused: models.


@raises("WorkerError", "same weight 0 on all workers, received worker 0: kernel (4, 3) float32; worker 1: ")
def units(worker):
    net(units=3 + worker.index)


@raises("WorkerError", "same class of the model on all workers, received worker 0: Functional; worker 1")
def another_class(worker):
    if worker.index:
        kparallel.wrap(keras.Sequential([keras.Input((4,)), L.Dense(1)]))
    else:
        net()


@raises("WorkerError", "same loss_reduction on all workers, received worker 0: mean; worker 1: sum")
def loss_reduction(worker):
    net(loss_reduction="sum" if worker.index else "mean")


@raises("WorkerError", "same number of microbatches on all workers, received worker 0: 1; worker 1: 2")
def microbatches(worker):
    net(microbatches=1 + worker.index)


@raises("PlanError", "kparallel run --devices-per-worker n gives each worker")
def too_many_stages(worker):
    net(stages=3)


@raises("PlanError", "Expected one replica on each of 2 workers, whose devices are CPUs, received replicas=4")
def replicas(worker):
    net(replicas=4)


# Data.


@raises("DataError", "same number of steps for each epoch on all workers, received [4, 2]")
def rows(worker):
    fit(net(), X[: 16 - 8 * worker.index])


@raises("WorkerError", "same epochs on all workers, received worker 0: 2; worker 1: 3")
def epochs(worker):
    fit(net(), epochs=2 + worker.index)


@raises("DataError", "same number of rows on all workers, received [16, 15]")
def rows_in_as_many_steps(worker):
    fit(net(), X[: 16 - worker.index], shuffle=False)


@raises("DataError", "same number of rows on all workers, received [16, 15]")
def shuffled_rows(worker):
    fit(net(), X[: 16 - worker.index], shuffle=True)


@raises("WorkerError", "same shuffle on all workers, received worker 0: False; worker 1: True")
def shuffle(worker):
    fit(net(), shuffle=bool(worker.index))


@raises("WorkerError", "same kind of data on all workers, received worker 0: arrays; worker 1: ")
def kind(worker):
    fit(net(), dataset(16) if worker.index else X)


# What `compile` and `fit` are given.


@raises("WorkerError", "same settings of the optimizer on all workers, received worker 0: SGD")
def settings(worker):
    fit(net(optimizer=keras.optimizers.SGD(0.1, clipnorm=1.0 + worker.index)))


@raises("WorkerError", "same loss on all workers, received worker 0: mse; worker 1: MeanSquaredError")
def loss(worker):
    fit(net(loss=keras.losses.MeanSquaredError(reduction="sum") if worker.index else "mse"))


@raises("WorkerError", "same class_weight on all workers, received worker 0: {0: 1.0}; worker 1: ")
def class_weight(worker):
    fit(net(), class_weight={0: 1.0 + worker.index})


@raises("WorkerError", "same call on all workers, received worker 0: fit; worker 1: predict")
def call(worker):
    if worker.index:
        net().predict(X, verbose=0)
    else:
        fit(net())


@raises("WorkerError", "received: worker 0 calls fit, evaluate or predict; worker 1 wraps a model. They have to make")
def an_error_caught_by_one(worker):
    """Worker 1 goes on with another model where worker 0 trains."""
    model = net()
    if worker.index:
        with contextlib.suppress(ValueError):
            model.compile("no such optimizer")
        model = net()
    fit(model)


@raises("WorkerError", "same number of rows on all workers, received worker 0: 16; worker 1: 8")
def predicted_rows(worker):
    net().predict(X[: 16 - 8 * worker.index], verbose=0)


@raises("WorkerError", "same first rows on all workers")
def predicted_shards(worker):
    net().predict(X[worker.index :: 2], verbose=0)


@raises("WorkerError", "same class of the optimizer on all workers, received worker 0: SGD; worker 1: Adam")
def optimizer(worker):
    fit(net(optimizer="adam" if worker.index else "sgd"))


@raises("WorkerError", "same presence of validation_data on all workers, received worker 0: False")
def validation(worker):
    fit(net(), validation_data=(X, Y) if worker.index else None)


@raises("DataError", "same number of validation batches on all workers, received [4, 2]")
def validation_steps(worker):
    rows = 16 - 8 * worker.index
    fit(net(), validation_data=(X[:rows], Y[:rows]))


# What comes apart while training.


@raises("DataError", "all workers to read the same batches")
def order(worker):
    fit(net(), dataset(16, seed=worker.index))


@raises("DataError", "all workers to read the same batches")
def late_rows(worker):
    """Rows of which the first batch's are equal."""
    y = Y + worker.index * (np.arange(16) == 15)[:, None]
    net().fit(X, y, batch_size=4, shuffle=False, verbose=0, epochs=2)


@raises("WorkerError", "same learning rate on all workers, received worker 0: 0.00999")
def rate(worker):
    fit(net(), callbacks=[on_one(worker, on_epoch_begin=halve_rate)])


@raises("WorkerError", "; worker 1: 0.00499")
def rate_in_a_step(worker):
    fit(net(), callbacks=[on_one(worker, on_train_batch_end=halve_rate)])


@raises("WorkerError", "same values of weight 'dense")
def weights(worker):
    fit(net(), callbacks=[on_one(worker, on_epoch_end=zero_weights)])


ENDS_EARLY = raises("DataError", "worker 0: another batch, worker 1: no more batches")


@ENDS_EARLY
def ends_early(worker):
    fit(net(), unsized(4 - 2 * worker.index))


@ENDS_EARLY
def ends_early_within_steps(worker):
    fit(net(), unsized(4 - 2 * worker.index), steps_per_epoch=4)


@ENDS_EARLY
def evaluated_ends_early(worker):
    net().evaluate(unsized(4 - 2 * worker.index), verbose=0)


@ENDS_EARLY
def predicted_ends_early(worker):
    net().predict(unsized(4 - 2 * worker.index), verbose=0)


@raises("WorkerError", "same number of batches on all workers, received worker 0: 4; worker 1: 2")
def evaluated_batches(worker):
    net().evaluate(dataset(16 - 8 * worker.index), verbose=0)


# Errors on one worker.


@raises_each(("DataError", "failed on worker 1"), ("InvalidArgumentError", "a corrupt record"))
def corrupt(worker):
    def read():
        for number in range(3):
            if worker.index and number == 1:
                raise ValueError("a corrupt record")
            yield X[:4], Y[:4]

    fit(net(), generated(read))


def fault(model):
    raise ArithmeticError("my own fault")


@fails_on(1, "ArithmeticError", "my own fault")
def callback(worker):
    fit(net(), callbacks=[on_one(worker, on_epoch_end=fault)])


@fails_on(0, "ArithmeticError", "my own fault")
def callback_of_chief(worker):
    failing = C.LambdaCallback(on_epoch_end=lambda epoch, logs: worker.index or fault(None))
    fit(net(), callbacks=[failing])


@fails_on(0, "FileNotFoundError", "/proc/kparallel")
def checkpoint_nowhere(worker):
    # Even root cannot make files there.
    fit(net(), callbacks=[C.ModelCheckpoint("/proc/kparallel/best.keras")])


@fails_on(0, "OSError", "No space left on device")
def full_disk(worker):
    fit(net(), callbacks=[C.CSVLogger("/dev/full")])


# An optimizer that is shared out.


def slots_of(model):
    return [slot for slot, _ in slots_by_weight(model.optimizer)]


def numbers_of(model):
    return [float(np.sum(slot.numpy())) for slot in slots_of(model)]


@returns(lambda one, other: one == other and len(set(map(str, one[:-1]))) == 3 and one[-2] == one[-1])
def slots_read_by_one(worker):
    """One worker reads all of them between steps, the other none; after fit they are on both."""
    read, model = [], net(optimizer="adam", shard="optimizer")
    reading = on_one(worker, on_train_batch_end=lambda m: read.append(numbers_of(m)))
    fit(model, epochs=1, batch_size=8, callbacks=[reading])
    model.train_on_batch(X, Y)
    told = [json.loads(text) for text in model._kparallel.placement.group.all_gather_text(json.dumps(read))][1]
    return [*told, numbers_of(model), numbers_of(model.unwrap())]


def at_rest(one, other):
    (held, sizes), (others, _) = one, other
    return held + others == sum(sizes) and 0 < max(held, others) <= sum(sizes) / 2 + 2 * max(sizes)


@returns(at_rest)
def slots_at_rest(worker):
    """Between steps a worker has at most its part of the slots, and the largest weight's."""
    held, model = [], net(optimizer="adam", shard="optimizer")

    def note(model):
        local = [variable_of_workers(slot).local_value() for slot in slots_of(model)]
        held.append(sum(int(tf.size(value)) for value in local if value is not None))

    fit(model, callbacks=[C.LambdaCallback(on_train_batch_end=lambda *_, **__: note(model))])
    return [held[0], [int(np.prod(slot.shape)) for slot in slots_of(model)]]


class Reading(C.Callback):
    def on_test_batch_begin(self, batch, logs=None):
        numbers_of(self.model)


@raises("ModelError", "to be read where all workers pass, received worker ")
def slots_read_where_the_other_does_not_pass(worker):
    fit(net(optimizer="adam", shard="optimizer"), validation_data=(X[:4], Y[:4]), callbacks=[Reading()])


def zero_slots(model):
    for slot in slots_of(model):
        slot.assign(0 * slot.value)


SLOTS_DIFFER = raises("WorkerError", "same values of slot ")


@SLOTS_DIFFER
def slots_written_by_one(worker):
    """In `fit`, after which all go on alike."""
    fit(net(optimizer="adam", shard="optimizer"), callbacks=[on_one(worker, on_train_batch_end=zero_slots)])


@SLOTS_DIFFER
def slots_written_by_one_between_steps(worker):
    model = net(optimizer="adam", shard="weights")
    model.train_on_batch(X, Y)
    if worker.index:
        zero_slots(model)
    model.train_on_batch(X, Y)


@raises("ValueError", "to be read outside of every tf.function")
def slots_read_in_a_function(worker):
    model = net(optimizer="adam", shard="optimizer")
    fit(model)
    tf.function(lambda: [tf.identity(slot.value) for slot in slots_of(model)])()


@raises("ModelError", "on every worker to move it")
def slots_moved_after_a_failed_step(worker):
    model = net(optimizer="adam", shard="optimizer")
    with contextlib.suppress(ArithmeticError):
        fit(model, callbacks=[C.LambdaCallback(on_train_batch_end=lambda *_, **__: fault(model))])
    model.unwrap()


class OwnAdam(keras.optimizers.Adam):
    def update_step(self, gradient, variable, learning_rate):
        norm = sum(keras.ops.sum(each**2) for each in self._trainable_variables)
        super().update_step(gradient, variable, learning_rate / norm)


@raises("ModelError", "updates each weight by its gradient, itself and its slots with shard='optimizer' over several ")
def own_optimizer_shared_out(worker):
    fit(net(optimizer=OwnAdam(), shard="optimizer"))


@raises("ModelError", "updates each weight by its gradient, itself and its slots with shard='weights' over several ")
def own_optimizer_with_weights_shared_out(worker):
    fit(net(optimizer=OwnAdam(), shard="weights"))


def stepping(model):
    """Return a step of a loop of one's own, which is traced once and then runs without Python."""

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(X, training=True) - Y) ** 2)
        model.optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)

    return tf.function(lambda: model.distribute_strategy.run(step))


@raises("ModelError", "strategy.run inside a tf.function with shard='optimizer' over several workers")
def eager_loop_shared_out(worker):
    net(shard="optimizer").distribute_strategy.run(lambda: None)


@raises("ModelError", "after kparallel.bring_together(model), which all workers have to call")
def slots_read_in_a_loop(worker):
    model = net(optimizer="adam", shard="optimizer")
    stepping(model)()
    numbers_of(model)


def refuses_to_read(model):
    try:
        numbers_of(model)
    except kparallel.errors.ModelError:
        return True
    return False


@returns(lambda one, other: one == other and one[:-1] == [True, True, True, True] and one[-1])
def slots_brought_together_in_a_loop(worker):
    """Until the next step they are on both workers, where one alone saves them; so after a fit in between."""
    model = net(optimizer="adam", shard="optimizer")
    step = stepping(model)
    step()
    kparallel.bring_together(model)
    first, file = numbers_of(model), worker.folder / "loop.keras"
    if worker.index == 0:
        model.save(file)
        loaded = keras.saving.load_model(file)
        np.testing.assert_array_equal(numbers_of(loaded), first)
    step()
    found = [refuses_to_read(model)]
    model.train_on_batch(X, Y)
    found.append(not refuses_to_read(model))
    step()
    found.append(refuses_to_read(model))
    kparallel.bring_together(model)
    found.append(not refuses_to_read(model))
    return [*found, numbers_of(model)]


@raises("WorkerError", "written on every worker alike before a loop's step, received writes on worker 1 alone")
def slots_written_by_one_in_a_loop(worker):
    model = net(optimizer="adam", shard="optimizer")
    step = stepping(model)
    step()
    kparallel.bring_together(model)
    if worker.index:
        zero_slots(model)
    step()
    kparallel.bring_together(model)


@returns(
    lambda one, other: one[1] == other[1] and all(", fit or train_on_batch before" in each[0] for each in (one, other))
)
def unwrapped_behind_a_loop(worker):
    model = net(optimizer="adam", shard="optimizer")
    step = stepping(model)
    step()
    found = []
    try:
        model.unwrap()
    except kparallel.errors.ModelError as error:
        found.append(str(error))
    kparallel.bring_together(model)
    plain = model.unwrap()
    plain.fit(X, Y, verbose=0, shuffle=False)
    return [*found, numbers_of(plain)]


@raises("WorkerError", "worker 0 brings together what the workers share out; worker 1 calls fit")
def slots_brought_together_by_one(worker):
    model = net(optimizer="adam", shard="optimizer")
    step = stepping(model)
    step()
    if worker.index:
        fit(model)
    else:
        kparallel.bring_together(model)


@raises("StagingError", "received Adam with another apply, which would see this worker's weights alone")
def replaced_method_in_a_loop(worker):
    model = net(optimizer="adam", shard="optimizer")
    own = model.optimizer.apply
    model.optimizer.apply = lambda gradients, variables: own([gradient / 2 for gradient in gradients], variables)
    stepping(model)()


@raises(
    "PlanError", "a weight to update for each of 2 workers with shard='optimizer', received 1 weights with a gradient"
)
def one_weight_shared_out(worker):
    inputs = keras.Input((4,))
    model = kparallel.wrap(keras.Model(inputs, L.Dense(1, use_bias=False)(inputs)), shard="optimizer")
    model.compile("adam", "mse")
    fit(model)


# Weights that are shared out.


def weights_of(model):
    return [variable_of_workers(weight) for weight in model.trainable_weights]


@returns(lambda one, other: one == other and len(set(map(str, one[:-1]))) == 2 and one[-2] == one[-1])
def weights_read_by_one(worker):
    """One worker reads all of them between steps, the other none; after fit they are on both."""
    read, model = [], net(optimizer="adam", shard="weights")
    reading = on_one(worker, on_train_batch_end=lambda m: read.append([w.tolist() for w in m.get_weights()]))
    fit(model, epochs=1, batch_size=8, callbacks=[reading])
    told = [json.loads(text) for text in model._kparallel.placement.group.all_gather_text(json.dumps(read))][1]
    return [*told, [weight.tolist() for weight in model.get_weights()]]


def part_at_rest(one, other):
    (held, dropped, sizes), (others, also, _) = one, other
    bound = 3 * (sum(sizes) / 2 + max(sizes))  # A weight and its two slots.
    return dropped and also and held + others == 3 * sum(sizes) and 0 < max(held, others) <= bound


@returns(part_at_rest)
def weights_at_rest(worker):
    """Between steps a worker has at most its part of weights and slots, and the largest weight with its slots."""
    model, held = net(optimizer="adam", shard="weights"), []
    others = [weakref.ref(each.local_copies[0]) for each in weights_of(model) if not each.owner.is_here]

    def note(*_, **__):
        gc.collect()
        local = [each.local_value() for each in (*weights_of(model), *map(variable_of_workers, slots_of(model)))]
        held.append(sum(int(tf.size(value)) for value in local if value is not None))
        held.append(bool(others) and not any(copy() for copy in others))

    fit(model, epochs=1, callbacks=[C.LambdaCallback(on_train_batch_end=note)])
    return [*held[:2], [int(np.prod(weight.shape)) for weight in model.trainable_weights]]


class ReadingWeights(C.Callback):
    def on_test_batch_begin(self, batch, logs=None):
        self.model.get_weights()


@raises("ModelError", "with shard='weights' to be read where all workers pass, received worker ")
def weights_read_where_the_other_does_not_pass(worker):
    model = net(optimizer="adam", shard="weights")
    fit(model, validation_data=(X[:4], Y[:4]), callbacks=[ReadingWeights()])


@raises("WorkerError", "same values of weight ")
def weights_written_by_one(worker):
    fit(net(optimizer="adam", shard="weights"), callbacks=[on_one(worker, on_train_batch_end=zero_weights)])


@raises("ModelError", "with shard='weights' to be read outside of every tf.function")
def weights_read_in_a_step(worker):
    model = net(optimizer="adam", shard="weights")
    kernel = model.layers[-1].kernel
    model.layers[1].kernel.regularizer = lambda own: keras.ops.sum(own) * keras.ops.sum(kernel)
    fit(model)


@raises("PlanError", "for each of 2 workers with shard='weights', received 1 weights with a gradient")
def one_weight_of_a_step_of_ones_own(worker):
    class Own(keras.Sequential):
        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(data[0], training=True) - data[1]) ** 2)
            self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
            return {"loss": loss}

    model = kparallel.wrap(Own([keras.Input((4,)), L.Dense(1, use_bias=False)]), shard="weights")
    model.compile("adam")
    fit(model)


@raises("ModelError", "strategy.run inside a tf.function with shard='weights' over several workers")
def eager_loop_with_weights_shared_out(worker):
    net(shard="weights").distribute_strategy.run(lambda: None)


def read_or_not(model):
    try:
        return [weight.tolist() for weight in model.get_weights()]
    except kparallel.errors.ModelError:
        return "refused"


@returns(lambda one, other: one[1:] == other[1:] and [one[0], other[0]] == ["refused"] * 2 and one[1] != one[2])
def weights_brought_together_in_a_loop(worker):
    """Behind each step they are apart until all workers bring them together, as behind a function without updates."""
    model = net(optimizer="adam", shard="weights")
    step = stepping(model)
    step()
    found = [read_or_not(model)]
    kparallel.bring_together(model)
    found.append(read_or_not(model))
    step()
    model.train_on_batch(X, Y)
    found.append(read_or_not(model))
    strategy = model.distribute_strategy
    outputs = tf.function(lambda: strategy.run(lambda: model(X)))()
    assert read_or_not(model) == "refused"
    kparallel.bring_together(model)
    assert read_or_not(model) == found[-1]
    np.testing.assert_allclose(strategy.experimental_local_results(outputs)[0], model(X), atol=1e-6)
    return found


@raises("WorkerError", "written on every worker alike before a loop's step, received writes on worker 1 alone")
def weights_written_by_one_in_a_loop(worker):
    model = net(optimizer="adam", shard="weights")
    step = stepping(model)
    if worker.index:
        zero_weights(model)
    step()
    kparallel.bring_together(model)


@raises("ModelError", "test_step to leave weights as they are with shard='weights' over several workers, received one")
def weights_written_by_a_test_step(worker):
    """Each worker has the weights between steps here, of which a step would write the owners' alone."""

    class Written(keras.Sequential):
        def test_step(self, data):
            self.weights[0].assign_add(self.weights[0])
            return {}

    model = kparallel.wrap(Written([keras.Input((4,)), L.Dense(1)]), shard="weights")
    model.compile("adam", "mse")
    model.evaluate(X, Y, verbose=0)


@returns(lambda one, other: one == other and one[0])
def weights_with_code_of_ones_own(worker):
    """A comparison with parts reads all weights, also that of a validation within fit; then some are frozen."""
    model = net(optimizer="adam", loss=lambda y, p: keras.ops.mean((y - p) ** 2, axis=-1), shard="weights")
    losses = fit(model, validation_data=(X[:8], Y[:8]))
    model.layers[-1].trainable = False  # Without another compile.
    model.test_function = None
    whole = model.evaluate(X, Y, verbose=0)
    outputs = model.predict(X, verbose=0)
    same = np.allclose(whole, np.mean((outputs - Y) ** 2), atol=1e-6) and np.allclose(outputs, model(X), atol=1e-6)
    if worker.index == 0:
        model.export(worker.folder / "weights_exported", verbose=False)
    return [bool(same), losses]


# After all these errors.


def trained_as_one(one, other):
    start, losses, weights = one
    return one == other and losses[-1] < losses[0] and start != weights


@returns(trained_as_one)
def afterwards(worker):
    """The workers train on together; the initial weights are the chief's."""
    keras.utils.set_random_seed(worker.index)
    model = net()
    start = [weight.tolist() for weight in model.get_weights()]
    return [start, fit(model, epochs=3), [weight.tolist() for weight in model.get_weights()]]


@raises("WorkerError", "same number of stages on all workers, received worker 0: 1; worker 1: 2")
def stages(worker):
    """The last case: the workers number their collectives apart from here on."""
    net(replicas=2, stages=1 + worker.index, microbatches=1)
