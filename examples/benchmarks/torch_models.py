"""PyTorch twins of the reference models: the same layers, shapes, optimizer and loss as in `keras_models`."""

from typing import Any

import torch
from torch import nn

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
    VOCABULARY,
)

__all__: list[str] = []


def build(work: str) -> nn.Sequential:
    """Return a new model as a sequence of layers or blocks, so that it can be cut into stages."""
    torch.manual_seed(0)
    return {"mlp": _mlp, "resnet": _resnet, "transformer": _transformer}[work]()


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Return SGD with momentum, in PyTorch's fastest form on CPUs."""
    return torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=MOMENTUM, foreach=True)


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy from logits over all but the last dim."""
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def batches(work: str, batch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return four batches in memory."""
    generator = torch.Generator().manual_seed(0)
    rows = 4 * batch
    if work == "transformer":
        x = torch.randint(0, VOCABULARY, (rows, SEQUENCE), generator=generator)
        y = torch.randint(0, VOCABULARY, (rows, SEQUENCE), generator=generator)
    else:
        shape = {"mlp": (MLP_INPUTS,), "resnet": (3, IMAGE, IMAGE)}[work]
        x = torch.randn((rows, *shape), generator=generator)
        y = torch.randint(0, CLASSES, (rows,), generator=generator)
    if work == "resnet":
        x = x.to(memory_format=torch.channels_last)
    return list(zip(x.split(batch), y.split(batch), strict=True))


def halves(model: nn.Sequential, work: str) -> tuple[nn.Sequential, nn.Sequential]:
    """Cut a model into two stages of equal work."""
    middle = {"mlp": 1 + MLP_LAYERS // 2, "transformer": 1 + BLOCKS // 2}[work]
    return model[:middle], model[middle:]


def _mlp() -> nn.Sequential:
    widths = [MLP_INPUTS] + [MLP_WIDTH] * MLP_LAYERS
    hidden = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(*hidden, nn.Linear(MLP_WIDTH, CLASSES))


def _resnet() -> nn.Sequential:
    blocks: list[nn.Module] = [_convolved(3, FILTERS[0], 3, 1), nn.ReLU()]
    channels = FILTERS[0]
    for group, filters in enumerate(FILTERS):
        for block in range(BLOCKS_PER_GROUP):
            blocks.append(Residual(channels, filters, 2 if group and not block else 1))
            channels = filters
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))
    assert IMAGE % 4 == 0
    return model.to(memory_format=torch.channels_last)


def _convolved(channels: int, filters: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, filters, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(filters))


class Residual(nn.Module):
    """Two convolutions beside a shortcut, which is a convolution where the shape changes."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            _convolved(channels, filters, 3, stride), nn.ReLU(), _convolved(filters, filters, 3, 1)
        )
        self.shortcut = nn.Identity() if stride == 1 else _convolved(channels, filters, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.shortcut(x) + self.inner(x))


class Embedded(nn.Module):
    """Tokens and places."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, DIM)
        self.places = nn.Embedding(SEQUENCE, DIM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tokens(x) + self.places(torch.arange(SEQUENCE))


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm and beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.attention = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
        self.forwards = nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.ReLU(), nn.Linear(4 * DIM, DIM))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        attended: Any = self.attention(h, h, h, need_weights=False)[0]
        x = x + attended
        return x + self.forwards(self.second(x))


def _transformer() -> nn.Sequential:
    return nn.Sequential(Embedded(), *[Block() for _ in range(BLOCKS)], nn.LayerNorm(DIM), nn.Linear(DIM, VOCABULARY))
