"""Models of the cases, each small enough to train in a second, and the data they train on."""

import keras
import numpy as np
import scipy.sparse

L = keras.layers
# Four full batches and one of two rows, fewer than three replicas.
ROWS, BATCH = 22, 5


def mlp():
    inputs = keras.Input((4,))
    hidden = L.Dense(6, activation="tanh", name="first")(inputs)
    hidden = L.Dense(5, activation="tanh", name="second")(hidden)
    return keras.Model(inputs, L.Dense(3, activation="softmax", name="last")(hidden))


def sequential():
    hidden = [L.Dense(units, activation="tanh") for units in (6, 5)]
    return keras.Sequential([keras.Input((4,)), *hidden, L.Dense(3, activation="softmax")])


def regularized():
    inputs = keras.Input((4,))
    hidden = L.Dense(6, activation="tanh", kernel_regularizer="l2", bias_regularizer="l1")(inputs)
    hidden = L.Dense(5, activation="tanh", activity_regularizer="l1")(hidden)
    return keras.Model(inputs, L.Dense(3, activation="softmax", activity_regularizer="l2")(hidden))


@keras.saving.register_keras_serializable("kparallel_tests")
class Penalty(L.Layer):
    """Adds the mean square of its inputs to the loss."""

    def call(self, inputs):
        self.add_loss(0.1 * keras.ops.mean(inputs**2))
        return inputs


def penalized():
    inputs = keras.Input((4,))
    hidden = Penalty()(L.Dense(6, activation="tanh")(inputs))
    return keras.Model(inputs, L.Dense(3, activation="softmax")(hidden))


@keras.saving.register_keras_serializable("kparallel_tests")
class PenaltyOfRows(L.Layer):
    """Adds a loss for each row: a tensor, which Keras sums, where a scalar is a mean."""

    def call(self, inputs):
        self.add_loss(0.01 * keras.ops.sum(inputs**2, axis=-1))
        return inputs


@keras.saving.register_keras_serializable("kparallel_tests")
class PenaltyOfKeras(L.Layer):
    """Adds one of Keras's losses, which divides by the number of a strategy's replicas."""

    def call(self, inputs):
        self.add_loss(keras.losses.MeanSquaredError()(keras.ops.zeros_like(inputs), inputs))
        return inputs


def penalized_by_keras():
    inputs = keras.Input((4,))
    hidden = PenaltyOfKeras()(L.Dense(6, activation="tanh")(inputs))
    return keras.Model(inputs, L.Dense(3, activation="softmax")(hidden))


def penalized_twice():
    """Adds a loss of rows near the inputs and a scalar near the outputs: in two stages, one in each."""
    inputs = keras.Input((4,))
    hidden = PenaltyOfRows()(L.Dense(6, activation="tanh")(inputs))
    hidden = L.Dense(5, activation="tanh")(hidden)
    hidden = L.Dense(5, activation="tanh")(hidden)
    return keras.Model(inputs, L.Dense(3, activation="softmax")(Penalty()(hidden)))


def regularized_weights():
    inputs = keras.Input((4,))
    hidden = L.Dense(6, activation="tanh", kernel_regularizer="l2")(inputs)
    hidden = L.Dense(5, activation="tanh")(hidden)
    return keras.Model(inputs, L.Dense(3, activation="softmax", kernel_regularizer="l2")(hidden))


def branched():
    inputs = keras.Input((4,))
    hidden = L.Dense(6, activation="tanh")(inputs)
    outputs = {
        "a": L.Dense(3, activation="softmax", name="a")(hidden),
        "b": L.Dense(1, name="b")(hidden),
    }
    return keras.Model(inputs, outputs)


def certain():
    """Its probabilities are 0 and 1 up to rounding, so that the losses depend on the logits behind them."""
    inputs = keras.Input((4,))
    hidden = L.Rescaling(100.0)(inputs)
    outputs = {"a": L.Dense(3, activation="softmax", name="a")(hidden)}
    return keras.Model(inputs, outputs | {"b": L.Dense(1, activation="sigmoid", name="b")(hidden)})


def shared_and_nested():
    """Takes a dict of two inputs through one shared, nested model; gives two outputs as a list."""
    one, other = keras.Input((4,), name="one"), keras.Input((4,), name="other")
    inside = keras.Sequential([keras.Input((4,)), L.Dense(5, activation="tanh"), L.Dense(4)], name="inside")
    joined = L.Concatenate()([inside(one), inside(other)])
    outputs = [L.Dense(3, activation="softmax", name="a")(joined), L.Dense(1, name="b")(joined)]
    return keras.Model({"one": one, "other": other}, outputs)


@keras.saving.register_keras_serializable("kparallel_tests")
class Subclassed(keras.Model):
    """A subclassed model with a config."""

    def __init__(self, units=5, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden = L.Dense(units, activation="tanh")
        self.out = L.Dense(3, activation="softmax")

    def build(self, input_shape):
        self.hidden.build(input_shape)
        self.out.build((*input_shape[:-1], self.units))
        self.built = True

    def call(self, inputs):
        return self.out(self.hidden(inputs))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def subclassed():
    model = Subclassed()
    model.build((None, 4))
    return model


def padded_sequence():
    tokens = keras.Input((5,), dtype="int32")
    hidden = L.Embedding(7, 4, mask_zero=True)(tokens)
    hidden = L.Dense(5, activation="tanh")(hidden)
    return keras.Model(tokens, L.Dense(3, activation="softmax")(hidden))


def lstm():
    tokens = keras.Input((5,), dtype="int32")
    hidden = L.LSTM(4, return_sequences=True)(L.Embedding(7, 4, mask_zero=True)(tokens))
    return keras.Model(tokens, L.Dense(3, activation="softmax")(hidden))


def gru():
    tokens = keras.Input((5,), dtype="int32")
    hidden = L.GRU(4)(L.Embedding(7, 4, mask_zero=True)(tokens))
    return keras.Model(tokens, L.Dense(3, activation="softmax")(hidden))


def convolution():
    inputs = keras.Input((2, 2, 1))
    hidden = L.Flatten()(L.Conv2D(3, 2, padding="same", activation="tanh")(inputs))
    return keras.Model(inputs, L.Dense(3, activation="softmax")(hidden))


def synchronized():
    inputs = keras.Input((4,))
    hidden = L.Dense(6, activation="tanh")(inputs)
    hidden = L.BatchNormalization(synchronized=True)(hidden)
    return keras.Model(inputs, L.Dense(3, activation="softmax")(hidden))


@keras.saving.register_keras_serializable("kparallel_tests")
class Positions(L.Layer):
    """Looks tokens up, and adds what it looks up by ids that are the same for every row."""

    def __init__(self, tables=2, **kwargs):
        super().__init__(**kwargs)
        self.number = tables
        self.tables = [L.Embedding(7, 4) for _ in range(tables)]

    def build(self, shape):
        for table in self.tables:
            table.build(shape)
        self.built = True

    def call(self, tokens):
        return self.tables[0](tokens) + self.tables[-1](self.ids(tokens))

    def ids(self, tokens):
        return keras.ops.arange(tokens.shape[-1])

    def get_config(self):
        return {**super().get_config(), "tables": self.number}


@keras.saving.register_keras_serializable("kparallel_tests")
class HeldPositions(Positions):
    """Holds the ids as a weight, as models from other libraries do."""

    def build(self, shape):
        super().build(shape)
        self.held = self.add_weight(shape=shape[-1:], dtype="int32", trainable=False, initializer="zeros")
        self.held.assign(keras.ops.arange(shape[-1]))

    def ids(self, tokens):
        return self.held


@keras.saving.register_keras_serializable("kparallel_tests")
class TiledPositions(Positions):
    """Looks the ids up for each row anew: as many slices as there are tokens."""

    def ids(self, tokens):
        return keras.ops.zeros_like(tokens) + keras.ops.cast(super().ids(tokens), tokens.dtype)


@keras.saving.register_keras_serializable("kparallel_tests")
class Counting(L.Layer):
    """Gives the ids alone, without rows."""

    def call(self, tokens):
        return keras.ops.arange(tokens.shape[-1])[None]

    def compute_output_spec(self, tokens):
        return keras.KerasTensor((1, tokens.shape[-1]), "int32")


def positions():
    return _of_tokens(Positions())


def held_positions():
    return _of_tokens(HeldPositions())


def tiled_positions():
    return _of_tokens(TiledPositions())


def one_table():
    """Looks tokens and positions up in one table."""
    return _of_tokens(Positions(1))


def positions_from_another_stage():
    tokens = keras.Input((5,), dtype="int32")
    positions = Counting()(tokens)
    hidden = L.Dense(4, activation="tanh")(L.Embedding(7, 4)(tokens))
    hidden = L.Dense(4, activation="tanh")(L.Dense(6, activation="tanh")(hidden))
    hidden = L.Add()([hidden, L.Embedding(5, 4)(positions)])
    return keras.Model(tokens, L.Dense(3, activation="softmax")(L.Flatten()(hidden)))


def _of_tokens(layer):
    tokens = keras.Input((5,), dtype="int32")
    hidden = L.Dense(5, activation="tanh")(L.Flatten()(layer(tokens)))
    return keras.Model(tokens, L.Dense(3, activation="softmax")(hidden))


def sparse_mlp():
    inputs = keras.Input((4,), sparse=True)
    hidden = L.Dense(5, activation="tanh")(L.Dense(6, activation="tanh")(inputs))
    return keras.Model(inputs, L.Dense(3, activation="softmax")(hidden))


@keras.saving.register_keras_serializable("kparallel_tests")
class Block(L.Layer):
    """Two layers in one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner, self.outer = L.Dense(4, activation="tanh"), L.Dense(4, activation="tanh")

    def build(self, input_shape):
        self.inner.build(input_shape)
        self.outer.build((None, 4))
        self.built = True

    def call(self, inputs):
        return self.outer(self.inner(inputs))


def frozen_in_part(*, frozen=True):
    """Blocks frozen as a whole, of which one has a layer that was unfrozen again, as LoRA leaves it."""
    blocks = [Block(name="one"), Block(name="other"), Block(name="free")]
    model = keras.Sequential([keras.Input((4,)), *blocks, L.Dense(3, activation="softmax")])
    if frozen:
        freeze_in_part(model)
    return model


def freeze_in_part(model):
    for name in ("one", "other"):
        block = model.get_layer(name)
        block.trainable = False
        block.outer.trainable = name == "one"


@keras.saving.register_keras_serializable("kparallel_tests")
class Masked(L.Dense):
    """Sets entries of its kernel to zero before it uses it, as PixelCNN's convolutions do."""

    def call(self, inputs, training=None):
        mask = np.triu(np.ones(self.kernel.shape))
        self.kernel.assign(self.kernel * keras.ops.cast(mask, self.kernel.dtype))
        return super().call(inputs)


def masked_kernels():
    """Penalized as well: a penalty is of the kernel that was assigned."""
    inputs = keras.Input((4,))
    hidden = Masked(6, activation="tanh", kernel_regularizer="l2")(inputs)
    return keras.Model(inputs, L.Dense(3, activation="softmax")(Masked(5, activation="tanh")(hidden)))


def spectral():
    """One kernel is used twice, so that its second use begins where the first one left it."""
    inputs = keras.Input((4,))
    twice = L.SpectralNormalization(L.Dense(4, activation="tanh"), power_iterations=2)
    hidden = L.SpectralNormalization(L.Dense(6, activation="tanh"))(twice(twice(inputs)))
    return keras.Model(inputs, L.Dense(3, activation="softmax")(hidden))


def spectral_lookup():
    tokens = keras.Input((5,), dtype="int32")
    hidden = L.SpectralNormalization(L.Embedding(7, 4))(tokens)
    return keras.Model(tokens, L.Dense(3, activation="softmax")(L.Dense(4, activation="tanh")(hidden)))


@keras.saving.register_keras_serializable("kparallel_tests")
class Observer(L.Layer):
    """Counts batches and rows, adds rows up, and follows their mean, which it subtracts."""

    def build(self, input_shape):
        options = {"initializer": "zeros", "trainable": False}
        self.batches = self.add_weight(shape=(), dtype="int32", **options)
        self.rows = self.add_weight(shape=(), **options)
        self.sums = self.add_weight(shape=(input_shape[-1],), **options)
        self.average = self.add_weight(shape=(input_shape[-1],), **options)
        self.corrected = self.add_weight(shape=(input_shape[-1],), **options)

    def call(self, inputs, training=False):
        rows = keras.ops.shape(inputs)[0]
        outputs = inputs - self.corrected
        self.batches.assign_add(1)
        self.rows.assign_add(keras.ops.cast(rows, self.rows.dtype))
        self.sums.assign(self.sums + keras.ops.sum(inputs, axis=0))
        if training:
            self.average.assign(0.9 * self.average + 0.1 * keras.ops.mean(inputs, axis=0))
            correction = 1.0 - 0.9 ** keras.ops.cast(self.batches, self.average.dtype)
            self.corrected.assign(self.average / correction)
        return outputs


def observed():
    inputs = keras.Input((4,))
    hidden = L.Dense(5, activation="tanh")(Observer()(inputs))
    return keras.Model(inputs, L.Dense(3, activation="softmax")(Observer()(hidden)))


def _random():
    return np.random.default_rng(0)


def numbers():
    rng = _random()
    return rng.normal(size=(ROWS, 4)), rng.integers(0, 3, ROWS)


def sparse_numbers():
    """Every row has a number: Keras 3.14 fails where the last one of a batch has none."""
    x, y = numbers()
    kept = (_random().uniform(size=x.shape) < 0.3) | (np.arange(4) == y[:, None])
    return scipy.sparse.csr_matrix(x * kept), y


def weighted():
    return (*numbers(), np.random.default_rng(1).uniform(size=ROWS))


def one_hot():
    x, y = numbers()
    return x, np.eye(3)[y]


def weighted_one_hot():
    return (*one_hot(), np.random.default_rng(1).uniform(size=ROWS))


def some_without_weight():
    """No row of one replica's share has weight, then none of a whole batch, then none of another share."""
    x, y, weight = weighted()
    weight[[0, 1, *range(5, 10), 12, 13, 14]] = 0
    return x, y, weight


def two_targets():
    x, y = numbers()
    return x, {"a": y, "b": x[:, :1] * 2}


def two_classes():
    x, y = numbers()
    return x, {"a": y, "b": (x[:, :1] > 0).astype(x.dtype)}


def two_weighted_targets():
    weight = np.random.default_rng(1).uniform(size=(2, ROWS))
    return (*two_targets(), {"a": weight[0], "b": weight[1]})


def two_inputs():
    x, y = numbers()
    return {"one": x, "other": x[:, ::-1].copy()}, [y, x[:, :1] * 2]


def images():
    x, y = numbers()
    return x.reshape(ROWS, 2, 2, 1), y


def tokens():
    """Token 0 is padding: batches, and the replicas' shares of them, hold different numbers of valid tokens."""
    rng = _random()
    length = rng.integers(1, 6, ROWS)
    tokens = rng.integers(1, 7, (ROWS, 5)) * (np.arange(5) < length[:, None])
    return tokens.astype("int32"), rng.integers(0, 3, (ROWS, 5))


def weighted_tokens():
    return (*tokens(), np.random.default_rng(1).uniform(size=(ROWS, 5)))


def labelled_tokens():
    x, y = tokens()
    return x, y[:, 0]


def some_without_tokens():
    """No row of one replica's share has a valid token, then none of a whole batch."""
    x, y = tokens()
    x[[0, 1, *range(5, 10)]] = 0
    return x, y
