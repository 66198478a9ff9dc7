"""Every kind of model that `wrap` takes trains as the plain one does, and keeps what its class gives it."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from tests.assertions import assert_alike, assert_fit_alike, doubles, state
from tests.choice import some
from tests.equality import models as m
from tests.pairs import pair

L = keras.layers
ROWS = 7
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 3))
Y = RNG.normal(size=(ROWS, 2))
WORDS = tf.constant([["red"], ["green"], ["blue"], ["red"], ["grey"], ["blue"], ["green"]])


def functional():
    inputs = keras.Input((3,), name="x")
    return keras.Model(inputs, L.Dense(2)(L.Dense(4, activation="tanh", name="hidden")(inputs)), name="net")


def sequential():
    return keras.Sequential([keras.Input((3,)), L.Dense(4, activation="tanh"), L.Dense(2)])


def unbuilt():
    return keras.Sequential([L.Dense(4, activation="tanh"), L.Dense(2)])


@keras.saving.register_keras_serializable("tests")
class Net(keras.Model):
    """A subclassed model with a config, a method, a property and an attribute of its own."""

    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.hidden = L.Dense(width, activation="tanh")
        self.top = L.Dense(2)
        self.names = ["a", "b"]

    def call(self, inputs, training=False):
        return self.top(self.hidden(inputs))

    def get_config(self):
        return {**super().get_config(), "width": self.width}

    @property
    def doubled(self):
        return 2 * self.width

    def features(self, x):
        return self.hidden(keras.ops.convert_to_tensor(x))


def called(kind, *arguments):
    model = kind(*arguments)
    model(X[:1])
    return model


def subclassed():
    return called(Net, 5)


def nested():
    inputs = keras.Input((3,))
    inner = keras.Sequential([keras.Input((3,)), L.Dense(4, activation="tanh"), L.BatchNormalization()], name="inner")
    return keras.Model(inputs, L.Dense(2)(functional_block()(inner(inputs))))


def functional_block():
    inputs = keras.Input((4,))
    return keras.Model(inputs, L.Add()([inputs, L.Dense(4)(inputs)]), name="block")


def two_inputs():
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    joined = L.Concatenate()([L.Dense(4)(a), b])
    return keras.Model([a, b], [L.Dense(2, name="first")(joined), L.Dense(1, name="second")(joined)])


def dict_inputs():
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((2,), name="b")}
    joined = L.Concatenate()([L.Dense(4)(inputs["a"]), inputs["b"]])
    return keras.Model(inputs, {"first": L.Dense(2, name="first")(joined), "second": L.Dense(1, name="second")(joined)})


def shared():
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    tower = L.Dense(4, activation="tanh")
    return keras.Model([a, b], L.Dense(2)(L.Subtract()([tower(a), tower(b)])))


def lookup():
    table = L.StringLookup(vocabulary=["red", "green", "blue"], output_mode="one_hot")
    inputs = keras.Input((1,), dtype="string")
    return keras.Model(inputs, L.Dense(2)(table(inputs)))


def text():
    vectorizer = L.TextVectorization(max_tokens=9, output_sequence_length=4)
    vectorizer.adapt(["red green", "blue red green", "grey"])
    inputs = keras.Input((1,), dtype="string")
    embedded = L.Embedding(9, 3)(vectorizer(inputs))
    return keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling1D()(embedded)))


def normalized():
    layer = L.Normalization()
    layer.adapt(X)
    return keras.Sequential([keras.Input((3,)), layer, L.Dense(2)])


@keras.saving.register_keras_serializable("tests")
class Backbone(keras.Model):
    """A Functional model behind a constructor of its own, as KerasHub writes its backbones."""

    def __init__(self, width, vocabulary=7, **kwargs):
        embedding = L.Embedding(vocabulary, width, name="token_embedding")
        tokens = keras.Input((None,), dtype="int32", name="token_ids")
        mask = keras.Input((None,), dtype="int32", name="padding_mask")
        hidden = embedding(tokens)
        hidden = hidden * keras.ops.expand_dims(keras.ops.cast(mask, hidden.dtype), -1)
        outputs = L.Dense(2)(L.GlobalAveragePooling1D()(L.Dense(width, activation="tanh")(hidden)))
        super().__init__(inputs={"token_ids": tokens, "padding_mask": mask}, outputs=outputs, **kwargs)
        self.width = width
        self.vocabulary = vocabulary
        self.embedding = embedding

    def get_config(self):
        config = {"name": self.name, "trainable": self.trainable}
        return {**config, "width": self.width, "vocabulary": self.vocabulary}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def backbone():
    return Backbone(4)


def tokens():
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 7, (ROWS, 5)).astype("int32")
    return {"token_ids": ids, "padding_mask": (ids > 2).astype("int32")}


def own_layers():
    """Layers of many sorts, with a class and functions that only this function knows, one named as one of Keras's."""

    class Scale(L.Layer):
        def build(self, input_shape):
            self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones")

        def call(self, x):
            return x * self.scale

    def relu(x):
        return keras.ops.tanh(x)

    inputs = keras.Input((6, 3))
    hidden = L.Conv1D(4, 3, activation=relu)(L.LayerNormalization()(L.Lambda(lambda x: 2 * x)(Scale()(inputs))))
    hidden = L.Bidirectional(L.SimpleRNN(2, return_sequences=True))(L.MultiHeadAttention(2, 2)(hidden, hidden))
    hidden = keras.ops.concatenate([keras.ops.sum(hidden, axis=1), L.Flatten()(inputs)], -1)
    return keras.Model(inputs, L.Dense(2)(hidden))


# name: (builder, x, y)
MODELS = {
    "own_layers": (own_layers, lambda: np.random.default_rng(2).normal(size=(ROWS, 6, 3)), lambda: Y),
    "functional": (functional, lambda: X, lambda: Y),
    "sequential": (sequential, lambda: X, lambda: Y),
    "unbuilt": (unbuilt, lambda: X, lambda: Y),
    "subclassed": (subclassed, lambda: X, lambda: Y),
    "unbuilt_subclassed": (Net, lambda: X, lambda: Y),
    "nested": (nested, lambda: X, lambda: Y),
    "two_inputs": (two_inputs, lambda: [X, Y], lambda: [Y, Y[:, :1]]),
    "dict_inputs": (dict_inputs, lambda: {"a": X, "b": Y}, lambda: {"first": Y, "second": Y[:, :1]}),
    "shared": (shared, lambda: [X, X[::-1]], lambda: Y),
    "lookup": (lookup, lambda: WORDS, lambda: Y),
    "text": (text, lambda: WORDS, lambda: Y),
    "normalized": (normalized, lambda: X, lambda: Y),
    "backbone": (backbone, tokens, lambda: Y),
}


@pytest.mark.parametrize("name", some(MODELS, "dict_inputs", "backbone", "unbuilt_subclassed"))
def test_it_trains_evaluates_and_predicts_like_the_plain_model(name):
    doubles()
    build, x, y = MODELS[name]
    # A single replica where BatchNorm would see other rows: its moments are those of the replica.
    plain, wrapped = pair(build, replicas=1 if name == "nested" else 2)
    losses = {"first": "mse", "second": "mae"} if name == "dict_inputs" else "mse"
    assert_fit_alike(
        wrapped,
        plain,
        lambda model: {"x": x(), "y": y(), "batch_size": 3, "epochs": 2},
        lambda: {"optimizer": keras.optimizers.SGD(0.05, momentum=0.9), "loss": losses},
    )
    assert isinstance(wrapped, type(plain))
    assert [layer.name for layer in wrapped.layers] == [layer.name for layer in plain.layers]
    evaluations = [model.evaluate(x(), y(), batch_size=3, verbose=0, return_dict=True) for model in (wrapped, plain)]
    assert_alike(*evaluations)
    assert_alike(wrapped.predict(x(), batch_size=3, verbose=0), plain.predict(x(), batch_size=3, verbose=0))
    assert_alike(wrapped.predict_on_batch(x()), plain.predict_on_batch(x()))
    calls = [model(keras.tree.map_structure(keras.ops.convert_to_tensor, x())) for model in (wrapped, plain)]
    assert_alike(*calls)


def test_a_builder_makes_the_model():
    doubles()
    keras.utils.set_random_seed(3)
    plain = functional()
    keras.utils.set_random_seed(3)
    wrapped = kparallel.wrap(functional, replicas=2)
    fit = {"x": X, "y": Y, "batch_size": 3}
    assert_fit_alike(wrapped, plain, lambda model: fit, lambda: {"optimizer": "sgd", "loss": "mse"})
    with pytest.raises(kparallel.errors.ModelError, match="received int"):
        kparallel.wrap(lambda: 3)


def test_a_compiled_builder_brings_its_compile_arguments():
    def build():
        model = functional()
        model.compile(keras.optimizers.SGD(0.25), "mae", metrics=["mse"])
        return model

    wrapped = kparallel.wrap(build, replicas=2)
    assert wrapped.compiled and wrapped.loss == "mae"
    assert float(wrapped.optimizer.learning_rate) == 0.25
    assert sorted(wrapped.fit(X, Y, verbose=0).history) == ["loss", "mse"]


def test_a_subclass_keeps_its_methods_and_attributes():
    plain, model = subclassed(), subclassed()
    plain.set_weights(model.get_weights())
    model.note = {"set": "later"}
    tracked, features = model.note, model.features
    wrapped = kparallel.wrap(model, replicas=2)
    assert wrapped.width == 5 and wrapped.doubled == 10 and list(wrapped.names) == ["a", "b"]
    assert wrapped.note is tracked
    wrapped.compile("sgd", "mse")
    wrapped.fit(X, Y, verbose=0)
    trained = np.asarray(wrapped.features(X))
    assert np.abs(trained - plain.features(X)).max() > 1e-6
    np.testing.assert_array_equal(features(X), trained)
    assert isinstance(wrapped, Net) and isinstance(wrapped, kparallel.ParallelModel)
    assert wrapped.unwrap() is model and type(model) is Net
    np.testing.assert_allclose(model.features(X), trained, atol=1e-6)
    assert dict(model.note) == {"set": "later"}


class Scored(Net):
    """Takes the compiled loss by half, and counts rows where it sees all of them."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 0.5 * super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        return {**logs, "rows": keras.ops.shape(y_pred)[0]}


class TracksInMetrics(Net):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.tracker = keras.metrics.MeanAbsoluteError(name="tracked")

    @property
    def metrics(self):
        return [self.tracker, *super().metrics]

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.tracker.update_state(y, y_pred)
        return self.get_metrics_result()


class TracksInLoss(Net):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.tracker = keras.metrics.Mean(name="tracked")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = keras.ops.mean((y - y_pred) ** 2)
        self.tracker.update_state(loss)
        return loss


class TracksMore(TracksInLoss):
    """Tracks rows, a batch's mean and errors; and where it is asked to what parts of a batch do not tell."""

    more = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.of_rows = keras.metrics.Mean(name="rows")
        self.errors = keras.metrics.RootMeanSquaredError(name="errors")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        squares = keras.ops.mean((y - y_pred) ** 2, axis=-1)
        self.of_rows.update_state(squares, sample_weight)
        self.errors.update_state(y, y_pred)
        self.tracker.update_state(0.5 * keras.ops.mean(squares))
        if self.more:
            self.tracker.update_state(keras.ops.max(squares))
        return keras.ops.mean(squares)


class TracksTheLargest(TracksMore):
    more = True


class ReadsWeights(Net):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean((y - y_pred) ** 2) + 0.1 * keras.ops.sum(self.top.kernel**2)


class CallsItself(Net):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean((self(2 * x) - y_pred) ** 2)


class Regularized(Scored):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.top.kernel_regularizer = keras.regularizers.L2()


class AddsLosses(Scored):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.top.activity_regularizer = keras.regularizers.L2()


class SplitsOutputs(Net):
    """Logs two losses of one output."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        parts = [[each[:, :1], each[:, 1:]] for each in (y, y_pred)]
        return super().compute_loss(x, *parts, sample_weight, training)


class Compiles(Net):
    """Has a `compile` with arguments and defaults of its own."""

    def compile(self, optimizer="auto", loss="mae", scale=1.0):
        super().compile(keras.optimizers.SGD(0.25 * scale) if optimizer == "auto" else optimizer, loss)


class Forwards(Net):
    """Wraps the trainer's methods, whatever their arguments."""

    calls = 0

    def fit(self, *args, **kwargs):
        Forwards.calls += 1
        return super().fit(*args, **kwargs)

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)


def test_a_subclass_may_pass_positional_arguments_on():
    doubles()
    plain, wrapped = pair(lambda: called(Forwards), replicas=2)
    for model in (plain, wrapped):
        model.compile("sgd", "mse")
        model.fit(X, Y, 3, 2, 0, shuffle=False)
    assert_alike(wrapped.get_weights(), plain.get_weights())
    assert Forwards.calls == 2


@pytest.mark.parametrize(
    ("kind", "reduction", "arguments"),
    [
        (Scored, "mean", {"optimizer": "sgd", "loss": "mse", "metrics": ["mae"]}),
        pytest.param(TracksInMetrics, "mean", {"optimizer": "sgd", "loss": "mse"}, marks=pytest.mark.full),
        pytest.param(TracksInLoss, "global", {"optimizer": "sgd"}, marks=pytest.mark.full),
        (TracksInLoss, "mean", {"optimizer": "sgd"}),
        pytest.param(TracksMore, "mean", {"optimizer": "sgd"}, marks=pytest.mark.full),
        pytest.param(TracksTheLargest, "global", {"optimizer": "sgd"}, marks=pytest.mark.full),
        (Compiles, "mean", {"scale": 2.0}),
    ],
)
def test_a_subclass_keeps_its_own_trainer_methods(kind, reduction, arguments):
    doubles()
    plain, wrapped = pair(lambda: called(kind), replicas=2, stages=1, microbatches=2, loss_reduction=reduction)
    fit = {"x": X, "y": Y, "batch_size": 4}
    assert_fit_alike(wrapped, plain, lambda model: fit, lambda: arguments)
    assert_alike(*[model.train_on_batch(X[:5], Y[:5], return_dict=True) for model in (wrapped, plain)])


@pytest.mark.parametrize("eagerly", [False, pytest.param(True, marks=pytest.mark.full)])
@pytest.mark.parametrize("kind", some([ReadsWeights, CallsItself, Regularized, AddsLosses], AddsLosses))
def test_a_loss_that_needs_the_model_trains_over_replicas(kind, eagerly):
    doubles()
    plain, wrapped = pair(lambda: called(kind), replicas=3)
    # Batches of 4 and 3 rows and of 1: a replica without rows.
    fit = {"x": X[:5], "y": Y[:5], "batch_size": 4, "validation_data": (X, Y), "validation_batch_size": 4}
    compiled = {"optimizer": "sgd", "loss": "mse", "metrics": ["mae"], "run_eagerly": eagerly}
    assert_fit_alike(wrapped, plain, lambda model: fit, lambda: compiled)


@pytest.mark.full
def test_one_output_that_compute_loss_splits_logs_its_losses_over_replicas():
    doubles()
    plain, wrapped = pair(lambda: called(SplitsOutputs), replicas=3)
    fit = {"x": X[:5], "y": Y[:5], "batch_size": 4, "validation_data": (X, Y), "validation_batch_size": 4, "epochs": 2}
    assert_fit_alike(wrapped, plain, lambda model: fit, lambda: {"optimizer": "sgd", "loss": ["mse", "mae"]})


@pytest.mark.parametrize("later", some([False, True], True))
def test_hooks_that_are_assigned_to_a_model_are_called(later):
    def compute_loss(x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean((y - y_pred) ** 4)

    def hooked(model):
        base = model.compute_metrics
        model.compute_loss = compute_loss
        model.compute_metrics = lambda x, y, y_pred, sample_weight=None: {
            **base(x, y, y_pred, sample_weight),
            "largest": keras.ops.max(y_pred),
        }
        return model

    doubles()
    plain, wrapped = pair(sequential if later else lambda: hooked(sequential()), replicas=2)
    if later:
        hooked(plain), hooked(wrapped)
    fit = {"x": X, "y": Y, "batch_size": 3, "epochs": 2}
    assert_fit_alike(wrapped, plain, lambda model: fit, lambda: {"optimizer": "adam", "metrics": ["mae"]})
    assert sorted(wrapped.history.history) == ["largest", "loss", "mae"]


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (TracksTheLargest, {"replicas": 2}, ["'tracked'", "compute_metrics", 'loss_reduction="global"']),
        (ReadsWeights, {"microbatches": 2}, ["kernel", "outputs alone", "Say replicas= alone"]),
        (CallsItself, {"microbatches": 2}, ["kernel", "one more output"]),
        (Regularized, {"microbatches": 2}, ["kernel", "super().compute_loss"]),
        (SplitsOutputs, {"microbatches": 2}, ["each of several losses", "Say replicas= alone"]),
        (AddsLosses, {"microbatches": 2}, ["add_loss", "pass the loss to compile"]),
    ],
)
def test_what_a_subclass_may_not_do_is_refused_by_name(kind, options, words):
    model = kind()
    model(X[:1].astype("float32"))
    wrapped = kparallel.wrap(model, **options)
    wrapped.compile("sgd", "mse")
    before = wrapped.get_weights()
    with pytest.raises(kparallel.errors.ModelError) as caught:
        wrapped.fit(X, Y, verbose=0)
    for word in words:
        assert word in str(caught.value)
    assert_alike(wrapped.get_weights(), before)


def targets():
    inputs = keras.Input((3,))
    hidden = L.Dense(4, activation="tanh")(inputs)
    return keras.Model(inputs, {"a": L.Dense(2, name="a")(hidden), "b": L.Dense(2, name="b")(hidden)})


@pytest.mark.parametrize("options", some([{"replicas": 3}, {"stages": 2, "microbatches": 2}], {"replicas": 3}))
@pytest.mark.parametrize(
    "make",
    [
        lambda value: keras.Variable(value, dtype="float64"),
        pytest.param(lambda value: keras.Variable(value, dtype="float32"), marks=pytest.mark.full),
        pytest.param(lambda value: tf.Variable(value, dtype="float64"), marks=pytest.mark.full),
        pytest.param(lambda value: tf.constant(value, "float64"), marks=pytest.mark.full),
        pytest.param(np.float32, marks=pytest.mark.full),
    ],
)
def test_loss_weights_are_read_in_each_step(make, options):
    doubles()
    results = []
    for wrap in (False, True):
        keras.utils.set_random_seed(0)
        weights = {"a": make(0.5), "b": make(2.0)}

        class Change(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None, weights=weights):
                for weight in weights.values():
                    if hasattr(weight, "assign"):
                        weight.assign(weight * 0.5)

        model = kparallel.wrap(targets(), **options) if wrap else targets()
        model.compile("sgd", {"a": "mse", "b": "mae"}, loss_weights=weights)
        y = {"a": Y, "b": 2 * Y}
        history = model.fit(X, y, batch_size=3, epochs=2, shuffle=False, verbose=0, callbacks=[Change()]).history
        results.append([*model.get_weights(), *(history[key] for key in sorted(history))])
    assert_alike(results[1], results[0])


@pytest.mark.parametrize("function", [lambda y, p: keras.ops.mean((y - p) ** 2), lambda y, p: (y - p) ** 2])
def test_an_unknown_loss_reduction_is_refused(function):
    """As in plain Keras, whose check lies in a loss's call."""
    loss = keras.losses.MeanSquaredError()
    loss.call, loss.reduction = function, "median"
    for model in (functional(), kparallel.wrap(functional(), replicas=2)):
        model.compile("sgd", loss)
        with pytest.raises(ValueError, match="median"):
            model.fit(X, Y, verbose=0)


def test_frozen_layers_do_not_move_and_slots_fit():
    doubles()
    plain, wrapped = pair(functional, replicas=2)
    fit = {"x": X, "y": Y, "batch_size": 3}
    arguments = {"optimizer": "adam", "loss": "mse"}
    for trainable in (True, False, True):
        for model in (plain, wrapped):
            model.get_layer("hidden").trainable = trainable
        before = wrapped.get_layer("hidden").get_weights()
        assert_fit_alike(wrapped, plain, lambda model: fit, lambda: arguments)
        moved = np.abs(wrapped.get_layer("hidden").get_weights()[0] - before[0]).max() > 0
        assert moved == trainable
        assert len(wrapped.optimizer.variables) == len(plain.optimizer.variables) == (10 if trainable else 6)
    frozen = functional()
    frozen.get_layer("hidden").trainable = False
    assert kparallel.wrap(frozen).get_layer("hidden").trainable is False


PIPELINE = {"stages": 2, "microbatches": 2}


@pytest.mark.parametrize(
    ("whole", "options"),
    some(
        [(whole, options) for whole in (False, True) for options in ({"replicas": 2}, PIPELINE)],
        (False, PIPELINE),
    ),
)
def test_a_layer_inside_a_block_frozen_after_wrapping_trains(options, whole):
    """But nothing does where the model itself is frozen, as in plain Keras."""
    doubles()
    x, y = m.numbers()
    weights, trained = [], []
    for wrap in (False, True):
        keras.utils.set_random_seed(0)
        model = m.frozen_in_part(frozen=False)
        model = kparallel.wrap(model, **options) if wrap else model
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        model.fit(x, y, batch_size=5, verbose=0)
        if whole:
            model.trainable = False
        m.freeze_in_part(model)
        before = model.get_weights()
        model.compile("sgd", "sparse_categorical_crossentropy")
        with pytest.warns(UserWarning, match="trainable weights") if whole else nullcontext():
            model.fit(x, y, batch_size=5, shuffle=False, verbose=0)
        weights.append(model.get_weights())
        trained.append([bool((old != new).any()) for old, new in zip(before, model.get_weights(), strict=True)])
    assert_alike(weights[1], weights[0])
    moves = [False] * 14 if whole else [False, False, True, True] + [False] * 4 + [True] * 6
    assert trained[0] == trained[1] == moves


def test_a_model_built_inside_another_strategy_is_refused_and_stays_usable():
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        foreign = functional()
        foreign.compile("adam", "mse")
    before = foreign.get_weights()
    values = [variable.value for variable in foreign.variables]
    with pytest.raises(kparallel.errors.ModelError, match=r"under MirroredStrategy. Build the model outside"):
        kparallel.wrap(foreign, replicas=3)
    assert not isinstance(foreign, kparallel.ParallelModel)
    assert all(variable.value is value for variable, value in zip(foreign.variables, values, strict=True))
    assert_alike(foreign.get_weights(), before)
    foreign.fit(X, Y, batch_size=4, verbose=0)


class Unconfigured(keras.Model):
    """Its constructor takes an argument that its config does not hold."""

    def __init__(self, width):
        super().__init__()
        self.hidden, self.top = L.Dense(width, activation="tanh"), L.Dense(2)

    def call(self, inputs):
        return self.top(self.hidden(inputs))


def shifting():
    """Make a model whose class gives its hidden layer one more unit at each call of its constructor."""

    class Shifting(Net):
        made = 1

        def __init__(self, **kwargs):
            type(self).made += 1
            super().__init__(type(self).made, **kwargs)

    return called(Shifting)


def curves():
    """Two functions of one name in a model."""

    def activation(factor):
        def curve(x):
            return factor * x

        return curve

    return keras.Sequential([keras.Input((3,)), *[L.Dense(2, activation=activation(factor)) for factor in (1.0, 2.0)]])


class Odd(keras.optimizers.Adam):
    """An optimizer that no config describes."""

    def __init__(self, secret):
        super().__init__(0.01 * secret)


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule without a config."""

    def __call__(self, step):
        return 0.1 * 0.5 ** keras.ops.cast(step, "float64")


def halving():
    return keras.optimizers.SGD(Halving())


@pytest.mark.parametrize(
    ("build", "optimizer"),
    [
        (lambda: Unconfigured(3), lambda: Odd(2)),
        pytest.param(lambda: called(Unconfigured, 3), halving, marks=pytest.mark.full),
        pytest.param(shifting, lambda: Odd(2), marks=pytest.mark.full),
        (curves, halving),
    ],
    ids=["unbuilt", "built", "another each time", "functions of one name"],
)
def test_what_no_config_describes_trains_like_the_plain_model(build, optimizer):
    doubles()
    plain, wrapped = pair(build, replicas=2)
    fit = {"x": X, "y": Y, "batch_size": 3, "epochs": 2}
    assert_fit_alike(wrapped, plain, lambda model: fit, lambda: {"optimizer": optimizer(), "loss": "mse"})
    assert wrapped.unwrap() is wrapped and type(wrapped).__name__ == type(plain).__name__
    for model in (plain, wrapped):
        model.fit(**fit, shuffle=False, verbose=0)
    assert_alike(state(wrapped), state(plain))


def lora(model):
    model.get_layer("hidden").enable_lora(2)


def one_more(model):
    model.add(L.Dense(2))


@pytest.mark.parametrize(("build", "change"), [(functional, lora), (sequential, one_more)])
def test_weights_made_after_wrapping_train_alike(build, change):
    plain, wrapped = pair(build, replicas=2)
    for model in (plain, wrapped):
        keras.utils.set_random_seed(2)
        change(model)
        model.compile("sgd", "mse")
        model.fit(X, Y, batch_size=3, epochs=2, shuffle=False, verbose=0)
    for one, other in zip(wrapped.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)  # Those of LoRA are float32.


def test_a_pipeline_refuses_a_graph_that_has_changed_until_it_is_wrapped_again():
    doubles()
    options = {"replicas": 1, "stages": 2, "microbatches": 2}
    plain, wrapped = pair(sequential, **options)
    for model in (plain, wrapped):
        keras.utils.set_random_seed(2)
        one_more(model)
        model.compile("sgd", "mse")
    before = wrapped.get_weights()
    with pytest.raises(kparallel.errors.PlanError, match=r"2 calls that the plan cuts, received 3.*Wrap it again"):
        wrapped.fit(X, Y, verbose=0)
    assert_alike(wrapped.get_weights(), before)
    kparallel.wrap(wrapped, **options)
    fit = {"x": X, "y": Y, "batch_size": 3, "epochs": 2}
    assert_fit_alike(wrapped, plain, lambda model: fit, lambda: {"optimizer": "adam", "loss": "mse"})
