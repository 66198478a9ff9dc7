"""Quantities with units, as a cluster file has them: bytes, bytes a second, FLOP/s and seconds."""

import re
from decimal import Decimal

from kparallel.errors import PlanError

__all__: list[str] = []

_TEXT = re.compile(r"\s*(\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*([A-Za-z/]+)\s*")
_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}

# By kind: the units, each with its size in bytes, bytes a second, FLOP/s or seconds, and an example for errors.
_BYTES = {f"{prefix}B": size for prefix, size in (_PREFIXES | _BINARY).items()}
_RATES = {f"{unit}/s": size for unit, size in _BYTES.items()}
_BITS = {f"{prefix}bit/s": size / 8 for prefix, size in _PREFIXES.items()}
_UNITS = {
    "bytes": (_BYTES, "80GB"),
    "rate": (_RATES | _BITS, "25GB/s' or '200Gbit/s"),
    "flops": ({f"{prefix}FLOP/s": size for prefix, size in _PREFIXES.items()}, "312TFLOP/s"),
    "seconds": ({"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}, "5us"),
}


def parse(text: object, kind: str, name: str) -> float:
    """Read a quantity.

    Args:
        text: A number in the base unit (bytes, bytes a second, FLOP/s, seconds), or a text with a number and a unit.
        kind: `"bytes"`, `"rate"`, `"flops"` or `"seconds"`.
        name: What the quantity is of, for the error.

    Returns:
        The quantity in its base unit; above 0, but for seconds, which may be 0.

    Raises:
        PlanError: The text is no such quantity.

    Example:
        >>> parse("200Gbit/s", "rate", "bandwidth"), parse("5us", "seconds", "latency"), parse(3e12, "flops", "float32")
        (25000000000.0, 5e-06, 3000000000000.0)
    """
    units, example = _UNITS[kind]
    value = -1.0
    if isinstance(text, int | float) and not isinstance(text, bool):
        value = float(text)
    elif isinstance(text, str) and (match := _TEXT.fullmatch(text)) and match[2] in units:
        value = float(Decimal(match[1]) * Decimal(repr(units[match[2]])))  # In floats 5 * 1e-6 is not 5e-6.
    if not 0 <= value < float("inf") or (value == 0 and kind != "seconds"):
        raise PlanError(f"Expected {name} such as '{example}', received {text!r}.")
    return value


def write(value: float, kind: str) -> str:
    """Return a quantity as text that `parse` reads, with four digits.

    Example:
        >>> write(2.5e10, "rate"), write(5e-6, "seconds"), write(8e9, "bytes"), write(1.95e13, "flops")
        ('25GB/s', '5us', '8GB', '19.5TFLOP/s')
    """
    # Powers of 1000 only: 8GB is written as such, and not as 7.451GiB.
    decimal = {unit: size for unit, size in _UNITS[kind][0].items() if "i" not in unit}
    fitting = [unit for unit, size in decimal.items() if value >= size * (1 - 1e-12)]
    unit = max(fitting, key=decimal.__getitem__) if fitting else min(decimal, key=decimal.__getitem__)
    return f"{value / decimal[unit]:.4g}{unit}"


def seconds(value: float) -> str:
    """Return a time for readers, with three digits.

    Example:
        >>> seconds(0.01234), seconds(12.3456), seconds(0)
        ('12.3 ms', '12.3 s', '0 ms')
    """
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
