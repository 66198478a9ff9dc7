"""Predictions held against what others have published: `python -m examples.benchmarks.published`.

Every figure is a ratio of two throughputs of one source. What a prediction takes from its source, such as the speed of
one device, is named, and a row that only repeats it is not counted. No constant was fitted to these figures.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from examples.benchmarks.published_models import blocks, resnet, vgg16
from kparallel.forecast.configuration import Configuration
from kparallel.forecast.hardware import Hardware, Link
from kparallel.forecast.step import StepModel
from kparallel.forecast.work import Work
from kparallel.planning.units import Unit

__all__: list[str] = []

# Links that cost nothing, for sources that do not say how fast theirs are: what counts is the schedule.
_IDEAL = Hardware("ideal", 1024, 1e15, {"float32": 1e13}, 1.0, Link(1e15, 0.0))


@dataclass(frozen=True)
class Comparison:
    """One published ratio and the predicted one.

    Args:
        source: Who published it, by the heading in `SOURCES`.
        what: What was measured.
        published: The published ratio.
        predicted: The predicted ratio.
        counted: Whether the row says anything; what is 1 by definition does not.
    """

    source: str
    what: str
    published: float
    predicted: float
    counted: bool = True

    @property
    def error(self) -> float:
        """The prediction over the published figure, less one."""
        return self.predicted / self.published - 1


SOURCES = {
    "GPipe": (
        "Huang et al., arXiv:1811.06965, table 2, TPUs: throughput ÷ that of 2 partitions and 1 microbatch. Predicted "
        "for 48 equal blocks, with recomputation and links that cost nothing."
    ),
    "torchgpipe": (
        "kakaobrain/torchgpipe, `benchmarks/resnet101-speed` and `amoebanetd-speed`, Tesla P40. ResNet-101 ÷ one "
        "device without recomputation, with the microbatches of its `main.py`; AmoebaNet-D as GPipe's."
    ),
    "TensorFlow": (
        "TensorFlow's benchmarks of May 2017, DGX-1 with 8 P100, replicated with NCCL: 8 GPUs ÷ 8 × one. Taken from "
        "there: the speed of one GPU. Assumed: a ring at 60 GB/s."
    ),
    "PyTorch DDP": (
        "pytorch/pytorch, `benchmarks/distributed/ddp`, DGX-1 with V100 and 4 × 100 Gbit/s: one of n GPUs ÷ one GPU "
        "with DDP. Taken from there: the speed of that GPU. Assumed: a ring at 130 GB/s."
    ),
    "Horovod": (
        "horovod/horovod, docs/benchmarks.rst, 128 machines with 4 P100 and 25 Gbit/s: efficiency of 512 GPUs. "
        "Taken from TensorFlow's benchmarks: the speed of one GPU (a step of ResNet-101 between those of ResNet-50 "
        "and ResNet-152). Assumed: 10 GB/s within a machine, packs of 64 MB; Inception V3 as 20 equal blocks."
    ),
    "Megatron-LM": (
        "Narayanan et al., arXiv:2104.04473, abstract and figure 12, A100: interleaved ÷ 1F1B, 175 billion parameters, "
        "12 stages of 8 GPUs. The text says 10 % and more, and that it is most at small batches; figures of single "
        "batches are drawn only. Predicted for the smallest, 12 microbatches. Assumed: two stages on each device, "
        "and links that cost nothing."
    ),
    "Zero bubble": (
        "Qi et al., arXiv:2401.10241, table 4, A100: interleaved ÷ 1F1B. Assumed: two stages on each device."
    ),
    "torchtitan": (
        "pytorch/torchtitan, `benchmarks/llama3_h100_202412_torchtitan.md`, table 5, 512 H100: interleaved ÷ 1F1B. "
        "Assumed: torchtitan's default of as many microbatches as devices, and two stages on each device."
    ),
}


def comparisons() -> list[Comparison]:
    """Return all comparisons, in the order of `SOURCES`."""
    made: list[Callable[[], Iterator[Comparison]]] = [
        _gpipe,
        _torchgpipe,
        _tensorflow,
        _ddp,
        _horovod,
        _megatron,
        _zero_bubble,
        _torchtitan,
    ]
    return [each for source in made for each in source()]


def _rate(
    units: Sequence[Unit],
    configuration: Configuration,
    rows: int,
    hardware: Hardware = _IDEAL,
    one_device: float | None = None,
    pack: int = 2**22,
) -> float:
    """Return the predicted rows a second; `one_device` is the measured speed of one device, in rows a second."""
    seconds = None
    if one_device is not None:
        total = sum(unit.flops_per_row for unit in units)
        seconds = [unit.flops_per_row / total / one_device / 3 for unit in units]
    model = StepModel(Work(units, hardware, seconds_per_row=seconds), rows, 0, pack)
    return model.estimate(configuration, model.work.cut(configuration.stages)).rows_per_second


def _pipeline(units: Sequence[Unit], stages: int, microbatches: int, rows: int, schedule: str = "gpipe") -> float:
    recompute = "except_last" if microbatches > 1 else "never"
    return _rate(units, Configuration(1, stages, stages, microbatches, schedule, recompute), rows)


_TABLE_2 = [(k, m) for k in (2, 4, 8) for m in (1, 4, 32)]


def _gpipe() -> Iterator[Comparison]:
    published = {
        "Transformer-48": (1, 1.7, 1.8, 1.07, 3.2, 3.4, 1.3, 4.8, 6.3),
        "AmoebaNet-D": (1, 1.07, 1.21, 1.13, 1.26, 1.84, 1.38, 1.72, 3.48),
    }
    for name, figures in published.items():
        for (k, m), figure in zip(_TABLE_2, figures, strict=True):
            predicted = _always(k, m) / _always(2, 1)
            yield Comparison("GPipe", f"{name}, K={k}, M={m}", figure, predicted, (k, m) != (2, 1))


def _always(stages: int, microbatches: int) -> float:
    """Return the speed of 48 equal blocks with recomputation."""
    return _rate(blocks(48), Configuration(1, stages, stages, microbatches, "gpipe", "always"), 256)


def _torchgpipe() -> Iterator[Comparison]:
    units = resnet((3, 4, 23, 3))
    baseline = _rate(units, Configuration(1), 118)
    for stages, microbatches, rows, figure in (
        (1, 2, 220, 0.853),
        (2, 1667, 25000, 1.414),
        (4, 256, 5632, 2.774),
        (8, 150, 5400, 4.294),
    ):
        predicted = _pipeline(units, stages, microbatches, rows) / baseline
        yield Comparison("torchgpipe", f"ResNet-101, pipeline-{stages}, M={microbatches}", figure, predicted)
    figures = (26.733, 41.133, 47.386, 26.827, 44.543, 72.412, 24.918, 70.065, 132.413)
    for (k, m), figure in zip(_TABLE_2, figures, strict=True):
        predicted = _pipeline(blocks(48), k, m, 256) / _pipeline(blocks(48), 2, 1, 256)
        yield Comparison("torchgpipe", f"AmoebaNet-D, n={k}, m={m}", figure / figures[0], predicted, (k, m) != (2, 1))


def _tensorflow() -> Iterator[Comparison]:
    node = Hardware("DGX-1", 8, 16e9, {"float32": 1e13}, 1.0, Link(6e10, 5.7e-6), memory_bandwidth=732e9)
    predicted = _rate(vgg16(), Configuration(8), 512, node, 154.0) / (8 * 154)
    yield Comparison("TensorFlow", "VGG-16, 8 GPUs", 1081 / (8 * 154), predicted)


def _ddp() -> Iterator[Comparison]:
    within, between = Link(1.3e11, 5.7e-6), Link(5e10, 14e-6)
    published = {
        "ResNet-50": ((3, 4, 6, 3), (319, 310, 310, 307, 306)),
        "ResNet-101": ((3, 4, 23, 3), (187, 182, 182, 179, 178)),
    }
    for name, (repeats, figures) in published.items():
        units = resnet(repeats)
        for count, figure in zip((2, 4, 8, 16), figures[1:], strict=True):
            cluster = Hardware("DGX-1", 8, 32e9, {"float32": 1e13}, 1.0, within, 2, between, 9e11, 0.0, "nccl")
            rate = _rate(units, Configuration(count), 32 * count, cluster, float(figures[0]), 25 * 2**20)
            yield Comparison("PyTorch DDP", f"{name}, {count} GPUs", figure / figures[0], rate / count / figures[0])


def _horovod() -> Iterator[Comparison]:
    cluster = Hardware("RoCE", 4, 16e9, {"float32": 1e13}, 1.0, Link(1e10, 5.7e-6), 128, Link(3.125e9, 14e-6), 732e9)
    for name, units, one, figure in (
        ("Inception V3", blocks(20, 23.8e6 / 20), 142.0, 0.90),
        ("ResNet-101", resnet((3, 4, 23, 3)), 2 / (1 / 219 + 1 / 91.8), 0.90),
        ("VGG-16", vgg16(), 154.0, 0.68),
    ):
        rate = _rate(units, Configuration(512), 64 * 512, cluster, one, 64 * 2**20)
        yield Comparison("Horovod", f"{name}, 512 GPUs", figure, rate / 512 / one)


def _interleaved(stages: int, microbatches: int, layers: int, recompute: str = "never") -> float:
    """Return the speed of interleaved 1F1B with two stages for each device ÷ that of 1F1B."""
    dealt = Configuration(1, stages, 2 * stages, microbatches, "interleaved", recompute)
    plain = Configuration(1, stages, stages, microbatches, "1f1b", recompute)
    return _rate(blocks(layers), dealt, microbatches) / _rate(blocks(layers), plain, microbatches)


def _megatron() -> Iterator[Comparison]:
    yield Comparison("Megatron-LM", "175B, p=12, m=12", 1.10, _interleaved(12, 12, 96, "always"))


def _zero_bubble() -> Iterator[Comparison]:
    yield Comparison("Zero bubble", "1.5B, p=8, m=24", 13.1 / 11.8, _interleaved(8, 24, 48))
    yield Comparison("Zero bubble", "28.3B, p=32, m=96", 0.82 / 0.76, _interleaved(32, 96, 64))


def _torchtitan() -> Iterator[Comparison]:
    yield Comparison("torchtitan", "405B, 8 stages", 128 / 100, _interleaved(8, 8, 128, "always"))


def table(rows: Sequence[Comparison]) -> str:
    """Return the comparisons as a table of Markdown, and below it how far predictions are off."""
    lines = ["| source | what | published | predicted | off by |", "|---|---|---|---|---|"]
    for row in rows:
        off = f"{row.error:+.0%}" if row.counted else "not counted"
        lines.append(f"| {row.source} | {row.what} | {row.published:.2f} | {row.predicted:.2f} | {off} |")
    errors = [abs(row.error) for row in rows if row.counted]
    near = sum(error <= 0.15 for error in errors)
    lines += ["", f"Of {len(errors)} figures {near} are within 15 %; the median is {median(errors):.0%} off."]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(comparisons()))
