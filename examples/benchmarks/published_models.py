"""Models of published measurements as descriptions: arithmetic and bytes of their calls, without layers."""

from collections.abc import Sequence

from kparallel.planning.units import Unit

__all__: list[str] = []


def blocks(number: int, parameters: float = 1e6, flops: float = 1e9, sent: int = 4096) -> list[Unit]:
    """Return equal blocks one after another, with weights of four bytes."""
    return _chain([(flops, parameters)] * number, sent)


def resnet(repeats: Sequence[int]) -> list[Unit]:
    """Return the stem, the bottlenecks and the head of a ResNet for images of 224 x 224: 3, 4, 23, 3 for ResNet-101.

    Source of the architecture: He et al., https://arxiv.org/abs/1512.03385, table 1.
    """
    calls = [_convolution(3, 64, 7, 112)]
    before = 64
    for group, repeat in enumerate(repeats):
        width, size = 64 * 2**group, 56 // 2**group
        for index in range(repeat):
            parts = [
                _convolution(before, width, 1, size),
                _convolution(width, width, 3, size),
                _convolution(width, 4 * width, 1, size),
            ]
            if index == 0:
                parts.append(_convolution(before, 4 * width, 1, size))
            calls.append((sum(flops for flops, _ in parts), sum(weights for _, weights in parts)))
            before = 4 * width
    return _chain([*calls, (2.0 * before * 1000, before * 1000)], 4 * 56 * 56 * 256)


def vgg16() -> list[Unit]:
    """Return VGG-16, whose three dense layers have nine tenths of its weights: https://arxiv.org/abs/1409.1556."""
    calls, before = [], 3
    for size, width, repeat in ((224, 64, 2), (112, 128, 2), (56, 256, 3), (28, 512, 3), (14, 512, 3)):
        for _ in range(repeat):
            calls.append(_convolution(before, width, 3, size))
            before = width
    dense = [(7 * 7 * 512, 4096), (4096, 4096), (4096, 1000)]
    return _chain([*calls, *((2.0 * one * other, one * other) for one, other in dense)], 4 * 224 * 224 * 64)


def _convolution(before: int, after: int, kernel: int, size: int) -> tuple[float, float]:
    weights = before * after * kernel**2
    return 2.0 * weights * size**2, weights


def _chain(calls: Sequence[tuple[float, float]], sent: int) -> list[Unit]:
    return [
        Unit(f"call_{i}", flops, int(weights), 4 * int(weights), sent, sent, (i - 1,) if i else (), (f"call_{i}",))
        for i, (flops, weights) in enumerate(calls)
    ]
