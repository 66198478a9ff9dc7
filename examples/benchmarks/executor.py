"""The shipped executor with emulated stage times: how near it comes to what the pipeline's bubble allows.

Stages sleep, so that any number of devices works side by side on any machine, and only the engine's own time is lost.
With K equal stages and M microbatches a speed-up of K·M/(M+K-1) is possible; GPipe's Table 2 reaches 0.53 to 0.96 of
it (Huang et al., https://arxiv.org/abs/1811.06965).
"""

from examples.benchmarks.arms import Arm, Process, running
from examples.benchmarks.ratio import row_of
from examples.benchmarks.row import Row, Settings

__all__: list[str] = []

CELLS = tuple((stages, microbatches) for stages in (2, 4, 8) for microbatches in (1, 4, 32))
_SECONDS = 0.005  # A nap forward; 0.010 backward.
_LONG = 0.4  # Below these seconds of a plain step, several steps are one measurement.


def rows(schedule: str, settings: Settings) -> list[Row]:
    """Measure the share of the possible speed-up in every cell of stages and microbatches."""
    options = {"schedule": schedule, "seconds": _SECONDS, "cells": CELLS}
    arms = {"naps": [Process("examples.benchmarks.nap_arm", options, [0, 1])]}
    with running(arms, settings.log) as started:
        return [_cell(started["naps"], stages, number, schedule, settings.rounds) for stages, number in CELLS]


def _cell(arm: Arm, stages: int, microbatches: int, schedule: str, rounds: int) -> Row:
    plain = 3 * _SECONDS * stages * microbatches
    steps = max(1, round(_LONG / plain))
    speed_ups = []
    for _ in range(rounds):
        one, several = (arm.run(steps, f"{kind} {stages} {microbatches}").seconds for kind in ("plain", "piped"))
        speed_ups.append(one / several)
    possible = stages * microbatches / (microbatches + stages - 1)
    what = f"executor alone, {schedule}, {stages} stages, microbatches: {microbatches}: speed-up ÷ K·M/(M+K-1)"
    setting = f"a pass sleeps {1e3 * _SECONDS:g} ms forward, {2e3 * _SECONDS:g} ms backward"
    return row_of(what, [s / possible for s in speed_ups], at_least=0.95, conditions=setting)
