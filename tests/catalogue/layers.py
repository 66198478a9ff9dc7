"""How each layer is made and what it is fed; a layer that is not named takes no arguments and a vector."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.equality.measure import use

L = keras.layers
VECTOR, STEPS, IMAGE, VOLUME, FILM = (4,), (6, 4), (6, 6, 3), (4, 4, 4, 2), (3, 4, 4, 4, 2)
WORDS = ["red", "green", "blue", "black"]


def normal(rng, shape):
    return rng.normal(size=shape)


def uniform(rng, shape):
    """Draw what is positive and apart from 0, such as pixels."""
    return rng.uniform(0.1, 0.9, size=shape)


def pixels(rng, shape):
    return rng.uniform(0.0, 255.0, size=shape)


def counts(rng, shape):
    """Draw whole numbers below 4, which a table of 4 or 5 rows can look up."""
    return rng.integers(0, 4, size=shape)


def words(rng, shape):
    """Draw words as a tensor, as which Keras takes strings."""
    return tf.constant(np.asarray(WORDS)[rng.integers(0, 4, size=shape)])


@dataclass(frozen=True)
class Recipe:
    """A layer in a model.

    Attributes:
        make: Makes the layer.
        shapes: Of each input, without the rows.
        draw: Draws an input of a shape, given a generator.
        dtype: Of the inputs.
        before: Whether a Dense layer stands before each input: the gradient then passes through the layer.
        call: Calls the layer with the list of inputs; by default with one input, or a list of several.
        policy: The dtype policy of the model: not float64 where a layer cannot run while that is the default.
        scale: What the outputs are divided by: a saturated layer behind would make rounding errors large.
    """

    make: Callable[[], Any]
    shapes: tuple[tuple[int, ...], ...] = (VECTOR,)
    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray] = normal
    dtype: str = "float64"
    before: bool = True
    call: Callable[[Any, list[Any]], Any] = lambda layer, inputs: layer(inputs if len(inputs) > 1 else inputs[0])
    policy: str = "float64"
    scale: float = 1.0


def on(make, *shapes, **rest):
    """Write down a layer on inputs of these shapes."""
    return Recipe(make, shapes or (VECTOR,), **rest)


def raw(make, *shapes, draw=normal, dtype="float64", **rest):
    """Write down a layer on the data themselves, as preprocessing takes it."""
    return Recipe(make, shapes or (VECTOR,), draw, dtype, before=False, **rest)


def image(make, **rest):
    """Write down a layer on pixels."""
    return raw(make, IMAGE, draw=pixels, scale=255.0, **rest)


def whole(make, *shapes, **rest):
    """Write down a layer on whole numbers."""
    return raw(make, *shapes, draw=counts, dtype="int64", **rest)


def text(make, *shapes):
    """Write down a layer on strings."""
    return raw(make, *shapes, draw=words, dtype="string")


def spread(layer, inputs):
    """Call a layer with each input as an argument of its own."""
    return layer(*inputs)


def pooled(layer, inputs):
    """Average over the places of what a layer makes of an image."""
    return L.GlobalAveragePooling2D()(layer(inputs[0]))


def with_states(cell, inputs):
    """Call a recurrent cell with one input and its states."""
    return cell(inputs[0], inputs[1:])


def there_and_back(layer, inputs):
    """Embed tokens, and read the embeddings back with the same table."""
    return layer(layer(inputs[0]), reverse=True)


def single(make, *args, **kwargs):
    """Make a layer that computes in float32, where TensorFlow or the layer knows no float64."""
    use("float32")
    layer = make(*args, **kwargs)
    use("float64")
    return layer


def boxed(layer, inputs):
    """Call a layer of bounding boxes on images, boxes and their labels."""
    labels = keras.ops.cast(inputs[1][..., 0] > 0.5, "int64")
    return layer({"images": inputs[0], "bounding_boxes": {"boxes": inputs[1], "labels": labels}})


def exported():
    """Make a layer of a model that was exported, with its weights."""
    model = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        # Keras itself cannot make slots for the names of its variables.
        return L.TFSMLayer(folder, call_endpoint="serve", trainable=False)


MERGES = ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract")
TWO = (VECTOR, VECTOR)

RECIPES = {
    **{name: on(getattr(L, name), *TWO) for name in MERGES},
    "Activation": on(lambda: L.Activation("tanh")),
    "AdaptiveAveragePooling1D": on(lambda: L.AdaptiveAveragePooling1D(2), STEPS),
    "AdaptiveAveragePooling2D": on(lambda: L.AdaptiveAveragePooling2D(2), IMAGE),
    "AdaptiveAveragePooling3D": on(lambda: single(L.AdaptiveAveragePooling3D, 2), VOLUME),
    "AdaptiveMaxPooling1D": on(lambda: L.AdaptiveMaxPooling1D(2), STEPS),
    "AdaptiveMaxPooling2D": on(lambda: L.AdaptiveMaxPooling2D(2), IMAGE),
    "AdaptiveMaxPooling3D": on(lambda: single(L.AdaptiveMaxPooling3D, 2), VOLUME),
    "ActivityRegularization": on(lambda: L.ActivityRegularization(l1=0.1, l2=0.1)),
    "AdditiveAttention": on(L.AdditiveAttention, STEPS, STEPS),
    "AlphaDropout": on(lambda: L.AlphaDropout(0.5)),
    "Attention": on(lambda: L.Attention(use_scale=True), STEPS, STEPS),
    "AugMix": image(L.AugMix, policy="float32"),
    "AutoContrast": image(L.AutoContrast),
    "AveragePooling1D": on(lambda: L.AveragePooling1D(2), STEPS),
    "AveragePooling2D": on(lambda: L.AveragePooling2D(2), IMAGE),
    "AveragePooling3D": on(lambda: single(L.AveragePooling3D, 2), VOLUME),
    "Bidirectional": on(lambda: L.Bidirectional(L.LSTM(3)), STEPS),
    "CategoryEncoding": whole(lambda: L.CategoryEncoding(4), (3,)),
    "CenterCrop": image(lambda: L.CenterCrop(4, 4)),
    "ContrastLimitedAdaptiveHistogramEqualization": image(
        lambda: L.ContrastLimitedAdaptiveHistogramEqualization(tile_grid_size=(2, 2))
    ),
    "Conv1D": on(lambda: L.Conv1D(3, 2), STEPS),
    "Conv1DTranspose": on(lambda: L.Conv1DTranspose(3, 2), STEPS),
    "Conv2D": on(lambda: L.Conv2D(3, 2), IMAGE),
    "Conv2DTranspose": on(lambda: L.Conv2DTranspose(3, 2), IMAGE),
    "Conv3D": on(lambda: L.Conv3D(3, 2), VOLUME),
    "Conv3DTranspose": on(lambda: L.Conv3DTranspose(3, 2), VOLUME),
    "ConvLSTM1D": on(lambda: L.ConvLSTM1D(2, 2), (3, 4, 2)),
    "ConvLSTM2D": on(lambda: L.ConvLSTM2D(2, 2), (3, 4, 4, 2)),
    "ConvLSTM3D": on(lambda: L.ConvLSTM3D(2, 2), FILM),
    "Cropping1D": on(L.Cropping1D, STEPS),
    "Cropping2D": on(lambda: L.Cropping2D(1), IMAGE),
    "Cropping3D": on(L.Cropping3D, VOLUME),
    "CutMix": image(L.CutMix),
    "Dense": on(lambda: L.Dense(3)),
    "DepthwiseConv1D": on(lambda: L.DepthwiseConv1D(2), STEPS),
    "DepthwiseConv2D": on(lambda: L.DepthwiseConv2D(2), IMAGE),
    "Discretization": raw(lambda: L.Discretization([-0.5, 0.5])),
    "Dot": on(lambda: L.Dot(1), *TWO),
    "Dropout": on(lambda: L.Dropout(0.5)),
    "EinsumDense": on(lambda: L.EinsumDense("abc,cd->abd", (6, 3), bias_axes="d"), STEPS),
    "Embedding": whole(lambda: L.Embedding(5, 3), (6,)),
    "Equalization": image(L.Equalization),
    "GRU": on(lambda: L.GRU(3), STEPS),
    "GRUCell": on(lambda: L.GRUCell(4), *TWO, call=spread),
    "GaussianDropout": on(lambda: L.GaussianDropout(0.5)),
    "GaussianNoise": on(lambda: L.GaussianNoise(0.5)),
    "GlobalAveragePooling1D": on(L.GlobalAveragePooling1D, STEPS),
    "GlobalAveragePooling2D": on(L.GlobalAveragePooling2D, IMAGE),
    "GlobalAveragePooling3D": on(L.GlobalAveragePooling3D, VOLUME),
    "GlobalMaxPooling1D": on(L.GlobalMaxPooling1D, STEPS),
    "GlobalMaxPooling2D": on(L.GlobalMaxPooling2D, IMAGE),
    "GlobalMaxPooling3D": on(L.GlobalMaxPooling3D, VOLUME),
    "GroupNormalization": on(lambda: L.GroupNormalization(2), STEPS),
    "GroupQueryAttention": on(lambda: L.GroupQueryAttention(2, 4, 2), STEPS, STEPS, call=spread),
    "HashedCrossing": whole(lambda: L.HashedCrossing(5, output_mode="one_hot"), (), ()),
    "Hashing": whole(lambda: L.Hashing(5), (3,)),
    # Every model has one; no one calls it.
    "InputLayer": on(lambda: L.InputLayer((4,)), call=lambda layer, inputs: inputs[0]),
    "IntegerLookup": whole(lambda: L.IntegerLookup(vocabulary=[3, 1, 2]), (3,)),
    "LSTM": on(lambda: L.LSTM(3), STEPS),
    "LSTMCell": on(lambda: L.LSTMCell(4), *TWO, VECTOR, call=with_states),
    "Lambda": on(lambda: L.Lambda(lambda inputs: 2.0 * inputs)),
    "Masking": raw(L.Masking, STEPS, call=lambda layer, inputs: L.LSTM(3)(layer(inputs[0]))),
    "MaxNumBoundingBoxes": raw(
        lambda: L.MaxNumBoundingBoxes(2, bounding_box_format="xyxy"), IMAGE, (3, 4), draw=uniform, call=boxed
    ),
    "MaxPooling1D": on(L.MaxPooling1D, STEPS),
    "MaxPooling2D": on(L.MaxPooling2D, IMAGE),
    "MaxPooling3D": on(lambda: single(L.MaxPooling3D), VOLUME),
    "MelSpectrogram": raw(lambda: single(L.MelSpectrogram, fft_length=16, sequence_stride=8, num_mel_bins=4), (64,)),
    "MixUp": image(L.MixUp),
    "MultiHeadAttention": on(lambda: L.MultiHeadAttention(2, 3), STEPS, STEPS, call=spread),
    "Normalization": raw(lambda: L.Normalization(mean=0.5, variance=2.0)),
    "Permute": on(lambda: L.Permute((2, 1)), STEPS),
    "Pipeline": image(lambda: L.Pipeline([L.Rescaling(1 / 255), L.CenterCrop(4, 4)])),
    "RNN": on(lambda: L.RNN(L.SimpleRNNCell(3)), STEPS),
    "RandAugment": image(L.RandAugment, policy="float32"),
    "RandomBrightness": image(lambda: L.RandomBrightness(0.5)),
    "RandomColorDegeneration": image(lambda: L.RandomColorDegeneration(0.5)),
    "RandomColorJitter": image(lambda: L.RandomColorJitter(brightness_factor=0.5, hue_factor=0.2)),
    "RandomContrast": image(lambda: L.RandomContrast(0.5)),
    # What it predicts has another size than what it trains on.
    "RandomCrop": image(lambda: L.RandomCrop(4, 4), call=pooled),
    "RandomElasticTransform": image(L.RandomElasticTransform),
    "RandomErasing": image(L.RandomErasing),
    "RandomFlip": image(L.RandomFlip),
    "RandomGaussianBlur": image(L.RandomGaussianBlur),
    "RandomGrayscale": image(L.RandomGrayscale),
    "RandomHue": image(lambda: L.RandomHue(0.5)),
    "RandomInvert": image(lambda: L.RandomInvert(0.5)),
    "RandomPerspective": image(L.RandomPerspective),
    "RandomPosterization": image(lambda: L.RandomPosterization(4)),
    "RandomRotation": image(lambda: L.RandomRotation(0.5), policy="float32"),
    "RandomSaturation": image(lambda: L.RandomSaturation(0.5)),
    "RandomSharpness": image(lambda: L.RandomSharpness(0.5)),
    "RandomShear": image(lambda: L.RandomShear(0.5, 0.5)),
    "RandomTranslation": image(lambda: L.RandomTranslation(0.5, 0.5)),
    "RandomZoom": image(lambda: L.RandomZoom(0.5)),
    "RepeatVector": on(lambda: L.RepeatVector(3)),
    "Rescaling": image(lambda: L.Rescaling(1 / 255)),
    "Reshape": on(lambda: L.Reshape((2, 2))),
    "Resizing": image(lambda: L.Resizing(4, 4)),
    "ReversibleEmbedding": whole(lambda: L.ReversibleEmbedding(5, 3), (6,), call=there_and_back),
    "STFTSpectrogram": raw(lambda: L.STFTSpectrogram(frame_length=16, frame_step=8, fft_length=16), (64, 1)),
    "SeparableConv1D": on(lambda: L.SeparableConv1D(3, 2), STEPS),
    "SeparableConv2D": on(lambda: L.SeparableConv2D(3, 2), IMAGE),
    "SimpleRNN": on(lambda: L.SimpleRNN(3), STEPS),
    "SimpleRNNCell": on(lambda: L.SimpleRNNCell(4), *TWO, call=spread),
    "Solarization": image(lambda: L.Solarization(0.3, 0.3)),
    "SpatialDropout1D": on(lambda: L.SpatialDropout1D(0.5), STEPS),
    "SpatialDropout2D": on(lambda: L.SpatialDropout2D(0.5), IMAGE),
    "SpatialDropout3D": on(lambda: L.SpatialDropout3D(0.5), VOLUME),
    "SpectralNormalization": on(lambda: L.SpectralNormalization(L.Dense(3))),
    "StackedRNNCells": on(
        lambda: L.StackedRNNCells([L.SimpleRNNCell(4), L.SimpleRNNCell(4)]), *TWO, VECTOR, call=with_states
    ),
    "StringLookup": text(lambda: L.StringLookup(vocabulary=WORDS[:3]), (3,)),
    "TFSMLayer": on(exported),
    "TextVectorization": text(lambda: L.TextVectorization(vocabulary=WORDS[:3], output_sequence_length=2), ()),
    "TimeDistributed": on(lambda: L.TimeDistributed(L.Dense(3)), STEPS),
    "UpSampling1D": on(L.UpSampling1D, STEPS),
    "UpSampling2D": on(L.UpSampling2D, IMAGE),
    "UpSampling3D": on(L.UpSampling3D, VOLUME),
    "ZeroPadding1D": on(L.ZeroPadding1D, STEPS),
    "ZeroPadding2D": on(L.ZeroPadding2D, IMAGE),
    "ZeroPadding3D": on(L.ZeroPadding3D, VOLUME),
}
