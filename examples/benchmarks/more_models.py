"""Four models that no goal was tuned on, and their data: a recommender, LSTMs, a U-Net and MobileNetV2."""

from typing import Any

import keras
import numpy as np
from keras import layers

from examples.benchmarks.work import (
    CLASSES,
    ITEMS,
    LSTM_SEQUENCE,
    LSTM_WIDTH,
    LSTM_WORDS,
    MOBILE_IMAGE,
    NUMBERS,
    UNET_FILTERS,
    UNET_IMAGE,
    UNET_LABELS,
    VALUES,
)

__all__: list[str] = []


def recommender() -> keras.Model:
    """Return a model of a large table of items, from which each row looks up several, beside a few numbers."""
    numbers, items = keras.Input((NUMBERS,)), keras.Input((VALUES,), dtype="int32")
    x = layers.Concatenate()([numbers, layers.Flatten()(layers.Embedding(ITEMS, 32)(items))])
    for width in (1024, 512, 256):
        x = layers.Dense(width, activation="relu")(x)
    return keras.Model([numbers, items], layers.Dense(CLASSES)(x))


def lstm() -> keras.Model:
    """Return two bidirectional LSTMs over words."""
    words = keras.Input((LSTM_SEQUENCE,), dtype="int32")
    x = layers.Embedding(LSTM_WORDS, LSTM_WIDTH)(words)
    x = layers.Bidirectional(layers.LSTM(LSTM_WIDTH, return_sequences=True))(x)
    x = layers.Bidirectional(layers.LSTM(LSTM_WIDTH))(x)
    return keras.Model(words, layers.Dense(CLASSES)(x))


def unet() -> keras.Model:
    """Return a U-Net, which labels every pixel; what each level computes on the way down is read on the way up."""
    inputs = x = keras.Input((UNET_IMAGE, UNET_IMAGE, 3))
    kept = []
    for filters in UNET_FILTERS[:-1]:
        x = _twice(x, filters)
        kept.append(x)
        x = layers.MaxPooling2D()(x)
    x = _twice(x, UNET_FILTERS[-1])
    for filters, level in zip(reversed(UNET_FILTERS[:-1]), reversed(kept), strict=True):
        x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
        x = _twice(layers.Concatenate()([level, x]), filters)
    return keras.Model(inputs, layers.Conv2D(UNET_LABELS, 1)(x))


def mobilenet() -> keras.Model:
    """Return Keras's own MobileNetV2, narrow and for small images."""
    shape = (MOBILE_IMAGE, MOBILE_IMAGE, 3)
    return keras.applications.MobileNetV2(shape, alpha=0.35, weights=None, classes=CLASSES, classifier_activation=None)


MODELS = {"recommender": recommender, "lstm": lstm, "unet": unet, "mobilenet": mobilenet}


def arrays(work: str, rows: int) -> tuple[Any, Any]:
    """Return inputs and labels of one of these models."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, rows).astype("int32")
    if work == "recommender":
        numbers = rng.normal(size=(rows, NUMBERS)).astype("float32")
        return (numbers, rng.integers(0, ITEMS, (rows, VALUES)).astype("int32")), labels
    if work == "lstm":
        return rng.integers(0, LSTM_WORDS, (rows, LSTM_SEQUENCE)).astype("int32"), labels
    side = UNET_IMAGE if work == "unet" else MOBILE_IMAGE
    images = rng.normal(size=(rows, side, side, 3)).astype("float32")
    if work == "unet":
        return images, rng.integers(0, UNET_LABELS, (rows, side, side)).astype("int32")
    return images, labels


def _twice(x: Any, filters: int) -> Any:
    for _ in range(2):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    return x
