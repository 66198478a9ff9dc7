"""Every kind of data that Keras takes trains, evaluates and predicts as in the plain model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel import errors
from tests.assertions import assert_alike, assert_fit_alike, doubles, state
from tests.choice import all_but, some
from tests.pairs import pair

pytestmark = pytest.mark.filterwarnings("ignore:Your input ran out of data", "ignore:.*shuffle=True.* was passed")

ROWS, BATCH = 11, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 3))
Y = RNG.integers(0, 3, ROWS)
WEIGHT = RNG.uniform(size=ROWS)
CLASSES = {0: 0.5, 1: 2.0, 2: 3.0}
SCCE = "sparse_categorical_crossentropy"


def net():
    layers = keras.layers
    return keras.Sequential([keras.Input((3,)), layers.Dense(3, activation="softmax")])


def compiled(**extra):
    return lambda: {
        "optimizer": keras.optimizers.SGD(0.1, momentum=0.9),
        "loss": SCCE,
        "weighted_metrics": ["accuracy"],
        **extra,
    }


def dataset(*parts, batch=BATCH):
    return tf.data.Dataset.from_tensor_slices(parts or (X, Y)).batch(batch)


def distributed(model):
    """Distribute a dataset over a wrapped model's replicas, as its user may; a plain model takes it as it is."""
    if isinstance(model, kparallel.ParallelModel):
        return model.distribute_strategy.experimental_distribute_dataset(dataset())
    return dataset()


def distributed_by_hand(model):
    """Deal rows to replicas by hand: each takes batches of its own size from its own dataset."""
    if not isinstance(model, kparallel.ParallelModel):
        return dataset(batch=4).take(2)

    def read(context):
        assert context.num_replicas_in_sync == 2
        return dataset(batch=2).take(4)

    return model.distribute_strategy.distribute_datasets_from_function(read)


class Sequence(keras.utils.PyDataset):
    """A PyDataset with a smaller last batch."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return X[rows], Y[rows], WEIGHT[rows]


def generator_without_targets():
    for batch in generator(3):
        yield batch[0], None


def generator(batches):
    for index in range(batches):
        rows = slice(index % 3 * BATCH, (index % 3 + 1) * BATCH)
        yield X[rows], Y[rows]


def tfds_like():
    return tf.data.Dataset.from_tensor_slices({"image": X, "label": Y}).map(lambda d: (d["image"], d["label"]))


def every_size():
    """Batches of 5, 1, 2 and 3 rows: nothing may be dealt across their borders."""
    sizes = [5, 1, 2, 3]
    starts = np.cumsum([0, *sizes])
    parts = [dataset(X[a:b], Y[a:b], batch=b - a) for a, b in zip(starts, starts[1:], strict=False)]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined.concatenate(part)
    return joined


# name: (fit arguments of a model, compile arguments)
DATA = {
    "numpy": (lambda m: {"x": X, "y": Y, "batch_size": BATCH, "epochs": 2}, {}),
    "shuffled": (lambda m: keras.utils.set_random_seed(1) or {"x": X, "y": Y, "batch_size": 4, "shuffle": True}, {}),
    "tensors": (lambda m: {"x": tf.constant(X), "y": tf.constant(Y), "batch_size": 4, "sample_weight": WEIGHT}, {}),
    "validation_split": (lambda m: {"x": X, "y": Y, "batch_size": 4, "validation_split": 0.3, "epochs": 2}, {}),
    "validation_arrays": (
        lambda m: {"x": X, "y": Y, "batch_size": 4, "validation_data": (X[:5], Y[:5], WEIGHT[:5]), "epochs": 2},
        {},
    ),
    "validation_dataset": (
        lambda m: {"x": X, "y": Y, "batch_size": 4, "validation_data": dataset(), "validation_steps": 2},
        {},
    ),
    "class_weight": (lambda m: {"x": X, "y": Y, "batch_size": 4, "class_weight": CLASSES}, {}),
    "dataset": (lambda m: {"x": dataset(), "epochs": 2, "class_weight": CLASSES}, {}),
    "dataset_of_three": (lambda m: {"x": dataset(X, Y, WEIGHT)}, {}),
    "repeated": (lambda m: {"x": dataset().repeat(), "steps_per_epoch": 4, "epochs": 3, "initial_epoch": 1}, {}),
    "mapped_after_batching": (lambda m: {"x": dataset().map(lambda x, y: (x * 2, y)).prefetch(2)}, {}),
    "every_size": (lambda m: {"x": every_size(), "epochs": 2}, {}),
    "distributed": (lambda m: {"x": distributed(m), "epochs": 2}, {}),
    "distributed_class_weight": (lambda m: {"x": distributed(m), "class_weight": CLASSES}, {}),
    "distributed_validation": (
        lambda m: {"x": X, "y": Y, "batch_size": 4, "validation_data": distributed(m), "epochs": 2},
        {},
    ),
    "distributed_steps": (lambda m: {"x": distributed(m), "steps_per_epoch": 2, "epochs": 2}, {}),
    "pydataset": (lambda m: {"x": Sequence(), "epochs": 2}, {}),
    "pydataset_workers": (lambda m: {"x": Sequence(workers=2, max_queue_size=3), "epochs": 2}, {}),
    "generator": (lambda m: {"x": generator(6), "steps_per_epoch": 3, "epochs": 2}, {}),
    # Where a dataset of unknown length runs out, plain Keras counts a step that it did not take.
    "generator_once": (
        lambda m: {"x": generator(3), "steps_per_epoch": None if isinstance(m, kparallel.ParallelModel) else 3},
        {},
    ),
    "filtered": (
        lambda m: {
            "x": tfds_like().filter(lambda x, y: y < 2).batch(BATCH),
            "steps_per_epoch": None if isinstance(m, kparallel.ParallelModel) else -(-int((Y < 2).sum()) // BATCH),
        },
        {},
    ),
    "tfds": (lambda m: {"x": tfds_like().batch(BATCH), "epochs": 2}, {}),
    "steps_per_execution": (lambda m: {"x": X, "y": Y, "batch_size": 2, "epochs": 2}, {"steps_per_execution": 4}),
    "steps_per_execution_of_dataset": (
        lambda m: {"x": dataset().repeat(), "steps_per_epoch": 5, "epochs": 2},
        {"steps_per_execution": 2},
    ),
}


# Of these kinds another one shows as much.
LEFT = ["tensors", "dataset", "validation_arrays", "distributed_steps", "pydataset", "tfds", "repeated", "generator"]
LEFT += ["filtered", "shuffled", "steps_per_execution", "distributed_class_weight", "validation_split", "every_size"]
LEFT += ["distributed_validation", "mapped_after_batching", "generator_once"]


@pytest.mark.parametrize("name", all_but(DATA, *LEFT))
def test_fit_equals_plain(name):
    doubles()
    fit, extra = DATA[name]
    plain, wrapped = pair(net, replicas=2)
    assert_fit_alike(wrapped, plain, fit, compiled(**extra))


def test_dealt_by_hand_equals_plain_on_the_rows_dealt():
    doubles()
    plain, wrapped = pair(net, replicas=2)
    assert_fit_alike(wrapped, plain, lambda m: {"x": distributed_by_hand(m), "epochs": 2}, compiled())
    want = plain.predict(X[:8], verbose=0)
    assert_alike(wrapped.predict(distributed_by_hand(wrapped), verbose=0), want)


def test_evaluate_and_predict_take_every_kind():
    doubles()
    plain, wrapped = pair(net, replicas=3)
    for model in (plain, wrapped):
        model.compile(**compiled(steps_per_execution=2)())
    for make in (
        lambda m: dataset(X, Y, WEIGHT),
        lambda m: every_size(),
        lambda m: Sequence(),
        lambda m: generator(3),
        distributed,
    ):
        logs = [model.evaluate(make(model), verbose=0, return_dict=True) for model in (wrapped, plain)]
        assert_alike(*logs)
        outputs = [model.predict(make(model), verbose=0) for model in (wrapped, plain)]
        assert outputs[0].shape == (ROWS, 3)
        assert_alike(*outputs)
    assert_alike(*[m.predict(generator_without_targets(), verbose=0) for m in (wrapped, plain)])
    assert_alike(*[m.predict(dataset().repeat(), steps=3, verbose=0) for m in (wrapped, plain)])
    assert_alike(*[m.evaluate(X, Y, batch_size=3, steps=2, verbose=0) for m in (wrapped, plain)])


def test_single_batches_equal_plain():
    doubles()
    plain, wrapped = pair(net, replicas=3)
    for model in (plain, wrapped):
        model.compile(**compiled()())
    for rows in (7, 2, 1):
        for arguments in ({}, {"sample_weight": WEIGHT[:rows]}, {"class_weight": CLASSES}):
            logs = [m.train_on_batch(X[:rows], Y[:rows], return_dict=True, **arguments) for m in (wrapped, plain)]
            assert_alike(*logs)
        assert_alike(*[m.test_on_batch(X[:rows], Y[:rows], sample_weight=WEIGHT[:rows]) for m in (wrapped, plain)])
        assert_alike(*[m.predict_on_batch(X[:rows]) for m in (wrapped, plain)])
    assert_alike(state(wrapped), state(plain))


def test_empty_data_is_refused_and_nothing_is_lost():
    wrapped = kparallel.wrap(net(), replicas=2)
    wrapped.compile("adam", SCCE)
    wrapped.fit(X, Y, verbose=0)
    before = int(wrapped.optimizer.iterations)
    filtered = tf.data.Dataset.from_tensor_slices((X, Y)).filter(lambda x, y: y > 5).batch(BATCH)
    for call in (
        lambda: wrapped.fit(dataset().take(0)),
        lambda: wrapped.fit(filtered, steps_per_epoch=2),
        lambda: wrapped.fit(filtered, epochs=2, verbose=0),
        lambda: wrapped.fit(distributed_empty(wrapped)),
        lambda: wrapped.fit(X, Y, validation_data=filtered, verbose=0, epochs=1, initial_epoch=0),
        lambda: wrapped.evaluate(filtered),
        lambda: wrapped.predict(filtered),
    ):
        with pytest.raises(errors.DataError, match="at least one batch"):
            call()
    assert np.isfinite(np.concatenate([value.ravel() for value in state(wrapped)])).all()
    assert int(wrapped.optimizer.iterations) == before + 1
    with pytest.raises((errors.DataError, ValueError)):
        wrapped.fit(X[:0], Y[:0])
    wrapped.fit(X, Y, verbose=0)


def distributed_empty(model):
    return model.distribute_strategy.experimental_distribute_dataset(dataset().take(0))


def test_tensors_of_different_rows_are_refused():
    """A graph's nodes and edges can not be shared out alike: the edges were cut to as many as there are nodes."""
    nodes, edges = keras.Input((3,)), keras.Input((2,))
    model = keras.Model([nodes, edges], keras.layers.Dense(3)(nodes) + keras.ops.mean(edges))
    wrapped = kparallel.wrap(model, replicas=2)
    wrapped.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensors(((X, np.ones((ROWS + 1, 2))), X))
    with pytest.raises(errors.DataError, match=r"\[11, 12, 11\] rows"):
        wrapped.fit(data, verbose=0)


def test_unbatched_data_is_refused():
    wrapped = kparallel.wrap(net(), replicas=2)
    wrapped.compile("sgd", SCCE)
    with pytest.raises(errors.DataError, match=r"\.batch\("):
        wrapped.fit(tf.data.Dataset.from_tensor_slices((np.arange(4.0), np.arange(4))), verbose=0)


@pytest.mark.parametrize("kind", some(["sparse", "scipy"], "scipy"))
def test_sparse_inputs(kind):
    doubles()

    def build():
        inputs = keras.Input((3,), sparse=True)
        return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(inputs))

    dense = np.where(X > 0, X, 0)
    dense[-1] = 1  # Keras 3.14 itself fails where the last row of a sparse array is empty
    sparse = tf.sparse.from_dense(dense)
    if kind == "scipy":
        sparse = pytest.importorskip("scipy.sparse").csr_matrix(dense)
    plain, wrapped = pair(build, replicas=2)
    assert_fit_alike(wrapped, plain, lambda m: {"x": sparse, "y": Y, "batch_size": BATCH}, compiled())
    assert_alike(*[m.predict(sparse, batch_size=BATCH, verbose=0) for m in (wrapped, plain)])


def test_ragged_inputs():
    doubles()
    rows = tf.ragged.constant([[1, 2, 3], [4], [], [2, 2], [5, 1, 1, 3], [6], [3, 4], [1], [2, 5, 4], [1, 1], [3]])
    layers = keras.layers

    @keras.saving.register_keras_serializable("tests")
    class Dense(layers.Layer):
        """Pads ragged ids, the way a tokenizer's output is made rectangular."""

        def call(self, ids):
            return ids.to_tensor(shape=(None, 4)) if isinstance(ids, tf.RaggedTensor) else ids

        def compute_output_spec(self, ids):
            return keras.KerasTensor((None, 4), dtype=ids.dtype)

    def build():
        inputs = keras.Input((None,), dtype="int32", ragged=True)
        hidden = layers.GlobalAveragePooling1D()(layers.Embedding(7, 4)(Dense()(inputs)))
        return keras.Model(inputs, layers.Dense(3, activation="softmax")(hidden))

    plain, wrapped = pair(build, replicas=2)
    data = tf.data.Dataset.from_tensor_slices((rows, Y)).batch(BATCH)
    assert_fit_alike(wrapped, plain, lambda m: {"x": data, "epochs": 2}, compiled())
    assert_alike(*[m.predict(data, verbose=0) for m in (wrapped, plain)])


def test_a_loss_that_sees_all_ragged_outputs():
    doubles()

    class Largest(keras.losses.Loss):
        def __call__(self, y_true, y_pred, sample_weight=None):
            return tf.reduce_max(y_pred) + tf.reduce_sum(y_pred**2)

    class Lookup(keras.Model):
        def __init__(self):
            super().__init__()
            self.table = keras.layers.Embedding(7, 2)

        def call(self, x):
            return self.table(x)

    rows = tf.ragged.constant([[1, 2, 3], [4], [2, 2], [5], [6, 1]])
    plain, wrapped = pair(Lookup, replicas=2)
    data = tf.data.Dataset.from_tensor_slices((rows, tf.zeros(5))).batch(3)
    assert_fit_alike(wrapped, plain, lambda model: {"x": data}, lambda: {"loss": Largest(), "jit_compile": False})


def test_ragged_and_text_outputs():
    """What a model gives need not be dense numbers."""

    def build():
        inputs = keras.Input((None,), dtype="int32", ragged=True)
        return keras.Model(inputs, inputs)

    plain, wrapped = pair(build, replicas=2)
    rows = tf.ragged.constant([[1, 2, 3], [4], [], [2, 2], [5]])
    data = tf.data.Dataset.from_tensor_slices(rows).batch(3)
    got, want = [model.predict(data, verbose=0) for model in (wrapped, plain)]
    assert isinstance(got, tf.RaggedTensor) and got.to_list() == want.to_list()

    class Speller(keras.layers.Layer):
        def call(self, ids):
            return tf.strings.as_string(ids)

        def compute_output_spec(self, ids):
            return keras.KerasTensor(ids.shape, dtype="string")

    def spell():
        inputs = keras.Input((2,), dtype="int32")
        return keras.Model(inputs, Speller()(inputs))

    ids = np.arange(10, dtype="int32").reshape(5, 2)
    got, want = [m.predict(ids, batch_size=3, verbose=0) for m in (kparallel.wrap(spell, replicas=2), spell())]
    np.testing.assert_array_equal(got, want)


def test_a_step_is_traced_once_for_each_number_of_rows():
    """No step may cost a new graph, nor an eager operation on the batch."""

    class Counter(keras.layers.Layer):
        calls = 0

        def call(self, x):
            type(self).calls += 1
            return x

    wrapped = kparallel.wrap(
        lambda: keras.Sequential([keras.Input((3,)), Counter(), keras.layers.Dense(3)]), replicas=2
    )
    wrapped.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    wrapped.fit(X, Y, batch_size=4, verbose=0)
    first = Counter.calls
    wrapped.fit(X, Y, batch_size=4, epochs=3, verbose=0)
    assert Counter.calls == first
