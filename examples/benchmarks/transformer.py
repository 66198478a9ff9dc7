"""A Transformer of features, whose weights, slots and activations the arms of memory count."""

import keras
from keras import layers

__all__: list[str] = []


def transformer(blocks: int, width: int, heads: int, tokens: int) -> keras.Model:
    """Return a model of as many blocks of attention and two dense layers, from features to features.

    Args:
        blocks: Their number.
        width: Features of a token.
        heads: Of the attention; they divide the width.
        tokens: Of a sequence.
    """
    x = inputs = keras.Input((tokens, width))
    for _ in range(blocks):
        h = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads)(h, h)])
        h = layers.Dense(4 * width, activation="relu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(h)])
    return keras.Model(inputs, x)
