"""The reference models in Keras, and their data."""

from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from examples.benchmarks.more_models import MODELS, arrays
from examples.benchmarks.work import (
    BLOCKS,
    BLOCKS_PER_GROUP,
    CLASSES,
    DIM,
    FILTERS,
    HEADS,
    IMAGE,
    LEARNING_RATE,
    MLP_INPUTS,
    MLP_LAYERS,
    MLP_WIDTH,
    MOMENTUM,
    SEQUENCE,
    STACKS,
    TABLE_LOOKUPS,
    TABLE_ROWS,
    TABLE_WIDTH,
    TINY_INPUTS,
    VOCABULARY,
)

__all__: list[str] = []


def build(work: str) -> keras.Model:
    """Return a new model by the name of its work."""
    builders = {"mlp": _mlp, "resnet": _resnet, "transformer": _transformer, "tiny": _tiny, "embedding": _embedding}
    builders |= MODELS | {name: partial(_stack, *size) for name, size in STACKS.items()}
    return builders[work]()


def compile_model(model: keras.Model, jit: bool | str = "auto", adam: bool = False) -> None:
    """Compile as all arms do: SGD with momentum, or Adam, cross entropy from logits, XLA as Keras decides."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sgd = keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM)
    model.compile(keras.optimizers.Adam(LEARNING_RATE) if adam else sgd, loss, jit_compile=jit)


def batches(work: str, batch: int) -> tf.data.Dataset:
    """Return batches without end, with tf.data's autotuning off: its thread can hold up the end of an epoch."""
    rng = np.random.default_rng(0)
    rows = 4 * batch
    if work in MODELS:
        x, y = arrays(work, rows)
    elif work == "transformer":
        x: Any = rng.integers(0, VOCABULARY, (rows, SEQUENCE)).astype("int32")
        y = rng.integers(0, VOCABULARY, (rows, SEQUENCE)).astype("int32")
    elif work == "embedding":
        x = rng.integers(0, TABLE_ROWS, (rows, TABLE_LOOKUPS)).astype("int32")
        y = rng.integers(0, CLASSES, rows).astype("int32")
    else:
        shapes = {"mlp": (MLP_INPUTS,), "resnet": (IMAGE, IMAGE, 3), "tiny": (TINY_INPUTS,)}
        shape = STACKS[work][1:] if work in STACKS else shapes[work]
        x = rng.normal(size=(rows, *shape)).astype("float32")
        y = rng.integers(0, CLASSES, rows).astype("int32")
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch, drop_remainder=True).repeat()
    return dataset.with_options(options)


def _mlp() -> keras.Model:
    hidden = [layers.Dense(MLP_WIDTH, activation="relu") for _ in range(MLP_LAYERS)]
    return keras.Sequential([keras.Input((MLP_INPUTS,)), *hidden, layers.Dense(CLASSES)])


def _stack(number: int, width: int) -> keras.Model:
    hidden = [layers.Dense(width, activation="relu") for _ in range(number)]
    return keras.Sequential([keras.Input((width,)), *hidden, layers.Dense(CLASSES)])


def _tiny() -> keras.Model:
    return keras.Sequential([keras.Input((TINY_INPUTS,)), layers.Dense(CLASSES)])


def _embedding() -> keras.Model:
    tokens = keras.Input((TABLE_LOOKUPS,), dtype="int32")
    x = layers.Flatten()(layers.Embedding(TABLE_ROWS, TABLE_WIDTH)(tokens))
    return keras.Model(tokens, layers.Dense(CLASSES)(x))


def _resnet() -> keras.Model:
    inputs = keras.Input((IMAGE, IMAGE, 3))
    x = _convolved(inputs, FILTERS[0], 3, 1)
    x = layers.ReLU()(x)
    for group, filters in enumerate(FILTERS):
        for block in range(BLOCKS_PER_GROUP):
            stride = 2 if group and not block else 1
            inner = layers.ReLU()(_convolved(x, filters, 3, stride))
            inner = _convolved(inner, filters, 3, 1)
            x = x if stride == 1 else _convolved(x, filters, 1, stride)
            x = layers.ReLU()(layers.Add()([x, inner]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def _convolved(x: Any, filters: int, kernel: int, stride: int) -> Any:
    x = layers.Conv2D(filters, kernel, strides=stride, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(epsilon=1e-5)(x)


def _transformer() -> keras.Model:
    tokens = keras.Input((SEQUENCE,), dtype="int32")
    places = layers.Embedding(SEQUENCE, DIM)(keras.ops.arange(SEQUENCE)[None] + 0 * tokens)
    x = layers.Embedding(VOCABULARY, DIM)(tokens) + places
    for _ in range(BLOCKS):
        h = layers.LayerNormalization(epsilon=1e-5)(x)
        x = x + layers.MultiHeadAttention(HEADS, DIM // HEADS)(h, h)
        h = layers.LayerNormalization(epsilon=1e-5)(x)
        x = x + layers.Dense(DIM)(layers.Dense(4 * DIM, activation="relu")(h))
    return keras.Model(tokens, layers.Dense(VOCABULARY)(layers.LayerNormalization(epsilon=1e-5)(x)))
