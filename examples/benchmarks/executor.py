"""The shipped executor with emulated stage times: how near it comes to what the pipeline's bubble allows.

Stages sleep, so that any number of devices works side by side on any machine, and only the engine's own time is lost.
With K equal stages and M microbatches a speed-up of K·M/(M+K-1) is possible; GPipe's Table 2 reaches 0.53 to 0.96 of
it (Huang et al., https://arxiv.org/abs/1811.06965). Other schedules allow more; what theirs is, their clock says.
"""

from typing import NamedTuple

from examples.benchmarks.arms import Arm, Process, running
from examples.benchmarks.ratio import row_of
from examples.benchmarks.row import Row, Settings
from kparallel.schedule import by_name, clock

__all__: list[str] = []

CELLS = tuple((stages, microbatches) for stages in (2, 4, 8) for microbatches in (1, 4, 32))
_MORE_CELLS = tuple((stages, microbatches) for stages in (2, 4, 8) for microbatches in (4, 8, 32))
_SECONDS = 0.010  # A nap: one forward, two backward. Python takes up to a millisecond to wake up from each.
_LONG = 0.4  # Below these seconds of a plain step, several steps are one measurement.
_PARTED = ("zb_h1", "zb_v")
_PER_DEVICE = {"interleaved": 2, "zb_v": 2}


class Cell(NamedTuple):
    """One pipeline.

    Args:
        schedule: The name of its schedule.
        devices: The number of devices, K.
        per_device: The number of stages on each of them, v.
        microbatches: Their number, M.
    """

    schedule: str
    devices: int
    per_device: int
    microbatches: int

    @property
    def stages(self) -> int:
        """The number of stages on all devices."""
        return self.devices * self.per_device


def rows(schedule: str, settings: Settings) -> list[Row]:
    """Measure the share of the possible speed-up in every cell of devices and microbatches."""
    sizes = CELLS if schedule in ("1f1b", "gpipe") else _MORE_CELLS
    cells = [Cell(schedule, devices, _PER_DEVICE.get(schedule, 1), number) for devices, number in sizes]
    against = [Cell("1f1b", 4, 1, 4)] if schedule == "zb_h1" else []
    found, compared = [], []
    for devices in sorted({cell.devices for cell in cells}):  # An arm each: one that traces all cells starts too late.
        of_arm, others = ([cell for cell in each if cell.devices == devices] for each in (cells, against))
        options = {"seconds": _SECONDS, "cells": of_arm + others, "parted": _PARTED}
        arms = {"naps": [Process("examples.benchmarks.nap_arm", options, [0, 1])]}
        with running(arms, settings.log) as started:
            arm = started["naps"]
            found += [_cell(arm, cell, settings.rounds) for cell in of_arm]
            compared += [_against(arm, each._replace(schedule=schedule), each, settings.rounds) for each in others]
    return found + compared


def possible(cell: Cell) -> tuple[float, str]:
    """Return the speed-up that a schedule allows where all stages are equal, and its formula as text.

    Example:
        >>> possible(Cell("zb_h1", 4, 1, 4))
        (3.2, '3K·M/(3M+K-1)')
    """
    programs = by_name(cell.schedule, cell.devices)(cell.stages, cell.microbatches)
    makespan = clock(programs, 1, 1 if cell.schedule in _PARTED else 2).makespan
    speed_up = 3 * cell.stages * cell.microbatches / makespan
    if cell.schedule == "zb_h1":
        return speed_up, "3K·M/(3M+K-1)" if cell.microbatches >= cell.devices else "3K·M/(2M+2K-1)"
    if cell.schedule == "zb_v":
        return speed_up, "its program on the clock"
    if cell.per_device == 1:
        return speed_up, "K·M/(M+K-1)"
    return speed_up, "K·M·v/(M·v+K-1)" if cell.microbatches % cell.devices == 0 else "its program on the clock"


def _cell(arm: Arm, cell: Cell, rounds: int) -> Row:
    ratios = _ratios(arm, f"plain {cell.stages} {cell.microbatches}", cell, rounds)
    most, formula = possible(cell)
    stages = (
        f"{cell.stages} stages" if cell.per_device == 1 else f"{cell.devices} devices with {cell.per_device} stages"
    )
    what = f"executor alone, {cell.schedule}, {stages}, microbatches: {cell.microbatches}: speed-up ÷ {formula}"
    back = f"{1e3 * _SECONDS:g} ms in each part" if cell.schedule in _PARTED else f"{2e3 * _SECONDS:g} ms"
    setting = f"a pass sleeps {1e3 * _SECONDS:g} ms forward, {back} backward"
    return row_of(what, [ratio / most for ratio in ratios], at_least=0.95, conditions=setting)


def _against(arm: Arm, cell: Cell, other: Cell, rounds: int) -> Row:
    ratios = _ratios(arm, f"{other.schedule} {other.stages} {other.microbatches}", cell, rounds)
    what = (
        f"executor alone, {cell.stages} stages, microbatches: {cell.microbatches}: {cell.schedule} ÷ {other.schedule}"
    )
    whole = f"a backward pass sleeps {2e3 * _SECONDS:g} ms before it gives anything under {other.schedule}"
    return row_of(what, ratios, at_least=1.3, conditions=f"{whole}, {1e3 * _SECONDS:g} ms in each part else")


def _ratios(arm: Arm, base: str, cell: Cell, rounds: int) -> list[float]:
    """Return how many times as fast as a variant a pipeline is, in turns."""
    plain = 3 * _SECONDS * cell.stages * cell.microbatches
    steps = max(1, round(_LONG / plain))
    found = []
    for _ in range(rounds):
        one, several = (
            arm.run(steps, variant).seconds for variant in (base, f"{cell.schedule} {cell.stages} {cell.microbatches}")
        )
        found.append(one / several)
    return found
