"""Models whose graphs are not chains, small enough to train in a second."""

import keras
import numpy as np

L = keras.layers


def residual():
    """A ResNet-like model: BatchNorm is left out, since each microbatch would be normalized by itself."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, padding="same", activation="tanh")(x)
    for index in range(3):
        shortcut = x
        x = L.Conv2D(4, 3, padding="same", activation="tanh", name=f"block{index}_a")(x)
        x = L.Conv2D(4, 3, padding="same", name=f"block{index}_b")(x)
        x = L.Add(name=f"block{index}_add")([x, shortcut])
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(3, activation="softmax", name="head")(x), name="residual")


def u_net():
    """Skips that jump over several stages."""
    x = inputs = keras.Input((8, 8, 2))
    skips = []
    for width in (2, 4):
        x = L.Conv2D(width, 3, padding="same", activation="tanh")(x)
        skips.append(x)
        x = L.MaxPooling2D()(x)
    x = L.Conv2D(6, 3, padding="same", activation="tanh")(x)
    for skip in reversed(skips):
        x = L.UpSampling2D()(x)
        x = L.Concatenate()([x, skip])
        x = L.Conv2D(3, 3, padding="same", activation="tanh")(x)
    return keras.Model(inputs, L.Conv2D(1, 1, name="map")(x), name="u_net")


@keras.saving.register_keras_serializable("kparallel_tests")
class TiedEmbedding(L.Embedding):
    """Embeds tokens, or with `reverse=True` scores every token by the same weights."""

    def call(self, inputs, reverse=False):
        if reverse:
            return keras.ops.matmul(inputs, keras.ops.transpose(self.embeddings))
        return super().call(inputs)

    def compute_output_shape(self, input_shape, reverse=False):
        return (*input_shape[:-1], self.input_dim) if reverse else super().compute_output_shape(input_shape)

    def compute_output_spec(self, inputs, reverse=False):
        return keras.KerasTensor(self.compute_output_shape(inputs.shape, reverse), dtype=self.compute_dtype)


def encoder_decoder():
    """A Transformer with two inputs, nested blocks, cross attention and tied embeddings in the first and last stage."""

    def block(name, width, context):
        x = keras.Input((None, width))
        inputs = [x]
        y = L.LayerNormalization()(L.Add()([x, L.MultiHeadAttention(2, 2)(x, x, use_causal_mask=context)]))
        if context:
            memory = keras.Input((None, width))
            inputs.append(memory)
            y = L.LayerNormalization()(L.Add()([y, L.MultiHeadAttention(2, 2)(y, memory)]))
        z = L.Dense(width)(L.Dense(6, activation="gelu")(y))
        return keras.Model(inputs, L.LayerNormalization()(L.Add()([y, z])), name=name)

    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    embed = TiedEmbedding(11, 4, name="embed")
    memory = block("encoder", 4, False)(embed(source))
    hidden = block("decoder", 4, True)([embed(target), memory])
    return keras.Model([source, target], embed(hidden, reverse=True), name="encoder_decoder")


def masked_two_headed():
    """Masks across cuts, a layer called twice, a nested model, penalties and two outputs."""
    numbers = keras.Input((6,), name="numbers")
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    inside = keras.Input((5, 4))
    dense = L.Dense(4, activation="tanh", kernel_regularizer="l2")
    inner = keras.Model(inside, dense(L.LSTM(4, return_sequences=True)(inside)), name="inner")
    h = inner(L.Embedding(9, 4, mask_zero=True)(tokens))
    twice = L.Dense(6, activation="tanh", activity_regularizer="l1", name="twice")
    x = twice(twice(numbers))
    h = L.Concatenate()([h, L.RepeatVector(5)(x)])
    outputs = {"out": L.Dense(3, activation="softmax", name="out")(h), "aux": L.Dense(1, name="aux")(x)}
    return keras.Model([numbers, tokens], outputs, name="masked_two_headed")


def normalized():
    """BatchNorm and Dropout, for rules of their own."""
    x = inputs = keras.Input((4,))
    x = L.Dense(5, activation="tanh")(x)
    x = L.BatchNormalization(momentum=0.5, name="norm")(x)
    x = L.Dropout(0.5, seed=1, name="drop")(x)
    return keras.Model(inputs, L.Dense(1, name="head")(x), name="normalized")


RNG_ROWS = 11


def images(channels=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(RNG_ROWS, 8, 8, channels)), rng.integers(0, 3, RNG_ROWS)


def maps():
    x, _ = images(2)
    return x, x[..., :1] ** 2


def sentences():
    rng = np.random.default_rng(0)
    return [rng.integers(1, 11, (RNG_ROWS, 4)), rng.integers(1, 11, (RNG_ROWS, 5))], rng.integers(0, 11, (RNG_ROWS, 5))


def numbers_and_tokens():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 9, (RNG_ROWS, 5)).astype("int32")
    tokens[:, 0] = 1
    x = [rng.normal(size=(RNG_ROWS, 6)), tokens]
    return x, {"out": rng.integers(0, 3, (RNG_ROWS, 5)), "aux": rng.normal(size=(RNG_ROWS, 1))}
