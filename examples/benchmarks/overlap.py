"""Which share of the gradients can be reduced while the backward pass still runs."""

from typing import Any

from examples.benchmarks.arms import Process, running
from examples.benchmarks.row import Row, Settings
from examples.benchmarks.work import WORK

__all__: list[str] = []

_CELLS: tuple[tuple[str, bool, dict[str, Any]], ...] = (
    ("devices", False, {}),
    ("devices", False, {"stages": 2, "microbatches": 4}),
    ("devices", True, {}),
    ("devices", True, {"stages": 2, "microbatches": 4}),
    ("devices", True, {"stages": 4, "microbatches": 1, "devices": ["CPU:0", "CPU:1"]}),
    ("workers", False, {}),
)


def rows(work: str, settings: Settings) -> list[Row]:
    """Tell the share of gradient bytes whose sum no last backward operation comes before, in the graph that runs."""
    options = {"work": work, "cells": _CELLS}
    with running({"overlap": [Process("examples.benchmarks.overlap_arm", options, [0, 1])]}, settings.log) as started:
        shares = started["overlap"].facts["shares"]
    return [
        Row(
            f"{WORK[work].title}, 2 {medium}, stages: {_stages(wrap)}, {'' if jit else 'no '}XLA: share of "
            "gradient bytes whose reduction can start before the last backward operation",
            share,
            at_least=0.8,
            conditions="read off the graph that TensorFlow runs",
        )
        for (medium, jit, wrap), share in zip(_CELLS, shares, strict=True)
    ]


def _stages(wrap: dict[str, Any]) -> str:
    return f"{wrap.get('stages', 1)}{' on each device' if 'devices' in wrap else ''}"
