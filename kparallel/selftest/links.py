"""Measures the all-reduce between two ends, and judges links by one another; without TensorFlow."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__: list[str] = []

SIZE = 2**20  # Elements of float32: four megabytes, as a pack of gradients has.
_REPETITIONS = 5
_LONG = 0.2  # Seconds. Where one reduction takes longer, it is not repeated.
_SLOW = 3.0  # How many times slower than the fastest of its kind a link is called slow.
_SLOWEST = 12.5e6  # Bytes a second, of an Ethernet of 100 Mbit/s: a slower link is slow without any other to compare.

AllReduce = Callable[["np.ndarray[tuple[int], np.dtype[np.float32]]"], "np.ndarray[tuple[int], np.dtype[np.float32]]"]


@dataclass(frozen=True)
class Link:
    """What two ends measured.

    Args:
        ends: Their names.
        kind: What joins them; links of one kind are compared.
        latency: Seconds of a reduction of one number.
        rate: Bytes a second of a reduction of four megabytes.
        problem: What went wrong, or nothing.
    """

    ends: tuple[str, str]
    kind: str
    latency: float = math.nan
    rate: float = math.nan
    problem: str = ""


def measure(ends: tuple[str, str], kind: str, own: int, all_reduce: AllReduce) -> Link:
    """Measure a link from one of its ends; the other one does the same at the same time.

    Args:
        ends: The names of both.
        kind: What joins them.
        own: Which of them this is: 0 or 1.
        all_reduce: Returns the sum of both ends' arrays.
    """
    number, array = (np.full(size, own + 1, np.float32) for size in (1, SIZE))
    try:
        latencies = [_timed(all_reduce, number) for _ in range(_REPETITIONS + 1)]
        seconds = [_timed(all_reduce, array)]
        # Both ends take as many repetitions, since the sum is the same on both.
        # own time      0.15 s      0.30 s
        # sum           0.45 s      0.45 s      compared with 2 * _LONG, so that both decide alike
        both = all_reduce(np.array([seconds[0]], np.float32))
        if both[0] < 2 * _LONG:
            seconds += [_timed(all_reduce, array) for _ in range(_REPETITIONS)]
    except Exception as error:  # Of the transport, whichever it is.
        return Link(ends, kind, problem=str(error) or type(error).__name__)
    return Link(ends, kind, statistics.median(latencies), array.nbytes / min(seconds))


def _timed(all_reduce: AllReduce, array: "np.ndarray[tuple[int], np.dtype[np.float32]]") -> float:
    """Return the seconds of a reduction.

    Raises:
        ValueError: Its result is wrong.
    """
    start = time.perf_counter()
    total = all_reduce(array)
    seconds = time.perf_counter() - start
    if total.shape != array.shape or not np.all(total == 3):
        wrong = total.flat[np.argmax(total.ravel() != 3)] if total.size else "nothing"
        raise ValueError(f"wrong result: expected 1 + 2 = 3 of each element, received {wrong}")
    return seconds


def verdict(link: Link, links: Sequence[Link]) -> str:
    """Say whether a link is right, slow or broken.

    Args:
        link: The link.
        links: All links.

    Example:
        >>> fast, slow = Link(("0", "1"), "network", 1e-4, 1e9), Link(("0", "2"), "network", 1e-4, 1e8)
        >>> verdict(fast, [fast, slow]), verdict(slow, [fast, slow])
        ('ok', 'SLOW: 10 times slower than the fastest network link')
        >>> verdict(Link(("1", "2"), "network", problem="hung up"), [fast, slow])
        'BROKEN: hung up'
    """
    if link.problem:
        return f"BROKEN: {link.problem}"
    fastest = max(other.rate for other in links if other.kind == link.kind and not other.problem)
    # Against the fastest of its kind: what one link reaches, the others could too.
    if fastest > _SLOW * link.rate:
        return f"SLOW: {fastest / link.rate:.0f} times slower than the fastest {link.kind} link"
    if link.kind == "network" and link.rate < _SLOWEST:
        return "SLOW: slower than an Ethernet of 100 Mbit/s"
    return "ok"


def table(links: Sequence[Link]) -> str:
    """Return a line for each link, below a heading.

    Example:
        >>> print(table([Link(("worker 0", "worker 1"), "network", 0.00012, 1.1e9)]))
        link                    joined by     one number     4 MB       rate
        worker 0 - worker 1     network          0.12 ms   3.8 ms   1.1 GB/s   ok
    """
    names = [" - ".join(link.ends) for link in links]
    width = max([len("worker 0 - worker 1"), *map(len, names)])
    lines = [f"{'link':<{width}}     {'joined by':<12}  one number     4 MB       rate"]
    for name, link in zip(names, links, strict=True):
        cells = [_milliseconds(link.latency), _milliseconds(SIZE * 4 / link.rate), _rate(link.rate)]
        if link.problem:
            cells = ["-", "-", "-"]
        lines.append(
            f"{name:<{width}}     {link.kind:<12}  {cells[0]:>10} {cells[1]:>8} {cells[2]:>10}   {verdict(link, links)}"
        )
    return "\n".join(lines)


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.{2 if seconds < 0.001 else 1}f} ms"


def _rate(rate: float) -> str:
    return f"{rate / 1e9:.1f} GB/s" if rate >= 1e9 else f"{rate / 1e6:.3g} MB/s"
