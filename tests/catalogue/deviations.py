"""What does not equal plain Keras, by (name, plan), with the reason; a listed one that is equal fails its test."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Deviation:
    """How a wrapped fit differs from the plain one.

    Attributes:
        outcome: `"unequal"`, or `"refused"` with an error of kparallel's.
        reason: Why nobody could do better, or what is to be mended.
    """

    outcome: str
    reason: str


MASKS = Deviation("unequal", "Every replica and microbatch draws random numbers of its own.")
MOMENTS = Deviation("unequal", "Each replica's and microbatch's rows are normalized with their own moments.")

# Layers that draw random numbers while they train; on one replica without microbatches they equal plain Keras.
RANDOM = [
    "AlphaDropout",
    "AugMix",
    "CutMix",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    "MixUp",
    "RandAugment",
    "RandomBrightness",
    "RandomColorDegeneration",
    "RandomColorJitter",
    "RandomContrast",
    "RandomCrop",
    "RandomElasticTransform",
    "RandomErasing",
    "RandomFlip",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomHue",
    "RandomInvert",
    "RandomPerspective",
    "RandomPosterization",
    "RandomRotation",
    "RandomSaturation",
    "RandomSharpness",
    "RandomShear",
    "RandomTranslation",
    "RandomZoom",
    "Solarization",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
]

# It chooses by Python's random numbers when a function is traced: each trace is another layer.
CHOSEN_IN_TRACING = ["AugMix"]

# Keras distorts the first row alone, and takes it for all, where a step does not know its number of rows: in plain
# Keras from the second size of batches on, under a plan never.
OF_KNOWN_ROWS = ["RandomElasticTransform"]

FOREIGN = Deviation("refused", "Its variables are TensorFlow's, which no stage can take as tensors.")

COLOURS = Deviation(
    "refused", "Keras's Equalization, which it may apply, counts the colours of all images that it sees."
)

LAYERS = {(name, plan): MASKS for name in RANDOM for plan in ("replicas", "stages")} | {
    ("AugMix", "replicas"): COLOURS,
    ("AugMix", "stages"): COLOURS,
    ("BatchNormalization", "replicas"): MOMENTS,
    ("BatchNormalization", "stages"): MOMENTS,
    ("TFSMLayer", "stages"): FOREIGN,
}
OPTIMIZERS: dict[tuple[str, str], Deviation] = {}
LOSSES: dict[str, Deviation] = {}
METRICS: dict[str, Deviation] = {}
