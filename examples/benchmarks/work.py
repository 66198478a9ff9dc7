"""The reference work: sizes that the Keras models and their PyTorch twins share."""

from dataclasses import dataclass

__all__: list[str] = []


@dataclass(frozen=True)
class Work:
    """A model and its batch.

    Args:
        title: Its name in the table.
        batch: Rows of one device's or one worker's batch.
        steps: Steps of one measurement, which is one epoch of `fit`.
    """

    title: str
    batch: int
    steps: int

    @property
    def long(self) -> int:
        """Steps where the start of a `fit` must not count: under a strategy or in a cluster it takes longer."""
        return 2 * self.steps


WORK = {
    "mlp": Work("MLP", 512, 12),
    "resnet": Work("ResNet", 64, 16),
    "transformer": Work("Transformer", 32, 10),
    "tiny": Work("tiny model", 32, 300),
    "embedding": Work("embedding", 256, 12),
    "recommender": Work("recommender", 1024, 8),
    "lstm": Work("two bidirectional LSTMs", 64, 8),
    "unet": Work("U-Net", 16, 8),
    "mobilenet": Work("MobileNetV2", 32, 8),
}
# By the name of the work: how many Dense layers, and how wide each is. Their updates take more of a step than others'.
STACKS = {f"stack-{layers}x{width}": (layers, width) for layers, width in ((8, 128), (64, 128), (4, 512), (16, 512))}
WORK |= {name: Work(f"{layers} Dense layers of {width}", 64, 40) for name, (layers, width) in STACKS.items()}
LEARNING_RATE = 0.01
MOMENTUM = 0.9

MLP_INPUTS, MLP_WIDTH, MLP_LAYERS, CLASSES = 256, 1024, 8, 10
IMAGE, FILTERS, BLOCKS_PER_GROUP = 32, (16, 32, 64), 2
VOCABULARY, SEQUENCE, DIM, HEADS, BLOCKS = 200, 64, 192, 4, 6
TINY_INPUTS = 8
TABLE_ROWS, TABLE_WIDTH, TABLE_LOOKUPS = 200_000, 32, 16
ITEMS, VALUES, NUMBERS = 100_000, 26, 13
LSTM_WORDS, LSTM_SEQUENCE, LSTM_WIDTH = 5000, 64, 64
UNET_IMAGE, UNET_FILTERS, UNET_LABELS = 64, (16, 32, 64), 3
MOBILE_IMAGE = 96
