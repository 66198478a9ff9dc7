"""Searches for the fastest configurations that fit the memory of every device of a cluster."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isclose

import numpy as np

from kparallel.errors import PlanError
from kparallel.forecast.configuration import Configuration, Fixed
from kparallel.forecast.configurations import configurations
from kparallel.forecast.estimate import Estimate
from kparallel.forecast.step import StepModel
from kparallel.planning.report import count, format_bytes

__all__: list[str] = []


def best(model: StepModel, fixed: Fixed | None = None, most: int = 5) -> list[Estimate]:
    """Return the fastest configurations that fit, the fastest first.

    Args:
        model: The model on the cluster.
        fixed: What the user has fixed; default nothing.
        most: How many. Default 5.

    Raises:
        PlanError: None fits; the message has the closest miss. Or what is fixed fits neither cluster nor model.
    """
    fixed = Fixed() if fixed is None else fixed
    hardware = model.work.hardware
    possible = _possible(model, fixed)
    if not possible:
        raise PlanError(
            f"Expected a plan for {count(hardware.devices, 'device')}, a batch of {count(model.batch_size, 'row')} and "
            f"at most {count(model.work.most_stages, 'stage')}, received {fixed}. Every replica needs a row for each "
            "microbatch and a device for each stage; a sharded optimizer needs several replicas."
        )
    found = _fastest(model, possible, most)
    if not found:
        raise _miss(model, possible)
    return found


def fastest(
    model: StepModel, fixed: Fixed, accept: Callable[[Configuration], bool] = lambda configuration: True
) -> Estimate | None:
    """Return the fastest configuration that fits, None if none does.

    Args:
        model: The model on the cluster.
        fixed: What the user has fixed.
        accept: Whether a configuration may be chosen. Default all may.
    """
    return next(iter(_fastest(model, list(filter(accept, _possible(model, fixed))), 1)), None)


def _possible(model: StepModel, fixed: Fixed) -> list[Configuration]:
    return list(configurations(model.work.hardware, model.batch_size, model.work.most_stages, fixed))


def _fastest(model: StepModel, possible: Sequence[Configuration], most: int) -> list[Estimate]:
    # A lower bound of the time with the cut that balances best. It is much quicker than a simulation, so all
    # configurations are sorted by it, and only those that may still be among the best are simulated.
    quick = {each: model.quick_time(each) for each in possible}
    found: list[Estimate] = []
    for each in sorted(possible, key=lambda each: (quick[each], each.simplicity)):
        if len(found) >= most and quick[each] >= found[most - 1].time.total:
            break  # All further ones are slower too.
        stages = model.fitting_cut(each)
        if stages is not None:
            made = model.estimate(each, stages)
            if not any(_same(made, other) for other in found):
                found.append(made)
                found.sort(key=lambda made: made.time.total)
    return found[:most]


def _same(one: Estimate, other: Estimate) -> bool:
    """Whether two estimates differ by the name of the schedule alone; the one that keeps fewer tensors came first."""
    alike = replace(one.configuration, schedule=other.configuration.schedule) == other.configuration
    return alike and isclose(one.time.total, other.time.total, rel_tol=1e-9)


def _miss(model: StepModel, possible: list[Configuration]) -> PlanError:
    limit = model.work.hardware.memory_per_device

    def need(configuration: Configuration) -> float:
        return float(np.max(model.memory(configuration, model.work.cut(configuration.stages))))

    closest = min(possible, key=need)
    return PlanError(
        f"Expected a plan that fits {format_bytes(limit)} per device; there is none. The closest miss is {closest}, "
        f"which needs {format_bytes(need(closest))} on its fullest device. Use more devices, a smaller batch_size (now "
        f"{model.batch_size}), an optimizer with fewer slots, or layers that a cut can part."
    )
