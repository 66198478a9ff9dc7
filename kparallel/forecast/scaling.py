"""Predicted throughput over the number of devices: weak and strong scaling."""

from dataclasses import dataclass

from kparallel.forecast.configuration import Fixed
from kparallel.forecast.estimate import Estimate
from kparallel.forecast.search import fastest
from kparallel.forecast.step import StepModel

__all__: list[str] = []


@dataclass(frozen=True)
class Scaling:
    """The best configuration by the number of devices; a number with which none fits is left out.

    Args:
        weak: With as many rows for each device, so that the batch grows with the devices.
        strong: With the same batch on any number of devices.
        tried: All numbers of devices that were tried.
    """

    weak: dict[int, Estimate]
    strong: dict[int, Estimate]
    tried: tuple[int, ...]


def scaling(model: StepModel, fixed: Fixed | None = None) -> Scaling:
    """Search with 1, 2, 4, ... devices, up to all devices of the cluster.

    Args:
        model: The model on the whole cluster, with the batch that it has there.
        fixed: What the user has fixed, for each number of devices; default nothing.

    Returns:
        Weak and strong scaling. A device has as many rows in weak scaling as it has on the whole cluster.
    """
    hardware, batch_size = model.work.hardware, model.batch_size
    weak: dict[int, Estimate] = {}
    strong: dict[int, Estimate] = {}
    tried = _numbers(hardware.devices_per_machine, hardware.devices)
    for devices in tried:
        work = model.work.on(hardware.with_devices(devices))
        # Weak scaling: a device has as many rows as on the whole cluster.
        grown = max(1, round(batch_size * devices / hardware.devices))
        for found, rows in ((strong, batch_size), (weak, grown)):
            fit = fastest(model.with_work(work, rows), Fixed() if fixed is None else fixed)
            if fit is not None:
                found[devices] = fit
    return Scaling(weak, strong, tuple(tried))


def _numbers(of_one_machine: int, most: int) -> list[int]:
    """Return the powers of two that are parts of one machine or whole machines, and all devices."""
    powers = [2**power for power in range(most.bit_length())]
    return sorted(
        {each for each in powers if each <= most and (each < of_one_machine or not each % of_one_machine)} | {most}
    )
