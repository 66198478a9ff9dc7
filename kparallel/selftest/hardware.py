"""Measures what a cluster file says: FLOP/s by dtype, memory, and the links that were measured."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from kparallel.cluster import Cluster, host_and_port
from kparallel.compat.memory import gpu_memory
from kparallel.errors import PlanError
from kparallel.forecast.hardware import Hardware
from kparallel.forecast.hardware import Link as Bandwidth
from kparallel.selftest.links import Link
from kparallel.stage.speed import default_dtypes, layer_efficiency, loop_step, matmul_rate, memory_rate, pass_start

__all__: list[str] = []


@dataclass(frozen=True)
class Speed:
    """What one worker measured on its devices.

    Args:
        devices: Their number.
        memory: Bytes that each of them has; of CPU devices an equal part of the process's.
        flops: FLOP/s of each by dtype.
        efficiency: The fraction of float32's that layers reach.
        memory_rate: Bytes a second of each.
        start: Seconds to start a pass.
        loop_step: Seconds of a time step of a recurrent layer.
    """

    devices: int
    memory: float
    flops: dict[str, float]
    efficiency: float
    memory_rate: float
    start: float
    loop_step: float = 0.0


def measure_speed(devices: Sequence[str], workers_on_host: int) -> Speed:
    """Measure this worker's devices, all at once.

    Args:
        devices: Their short names.
        workers_on_host: How many workers share the memory of this host.
    """
    flops = {dtype: matmul_rate(dtype, devices) for dtype in default_dtypes()}
    memory = gpu_memory()
    # A CPU device has no memory of its own: workers and devices of a host share it.
    if memory is None:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory = whole / workers_on_host / len(devices)
    efficiency = layer_efficiency(flops["float32"], devices)
    starts = pass_start(devices), loop_step(devices)
    return Speed(len(devices), memory, flops, efficiency, memory_rate(devices), *starts)


def hosts_of(cluster: Cluster | None) -> list[str]:
    """Return the host of each worker."""
    return [""] if cluster is None else [host_and_port(worker)[0] for worker in cluster.workers]


def combined(speeds: Sequence[Speed], links: Sequence[Link], hosts: Sequence[str]) -> Hardware:
    """Return the hardware that workers and links make up: the slowest of each.

    A planner knows machines that are alike, and every step waits for the slowest device and the slowest link.

    Args:
        speeds: What each worker measured.
        links: What was measured between workers, or between the devices of one process.
        hosts: The host of each worker.

    Raises:
        PlanError: A link is broken, or the hosts differ in their numbers of devices.

    Example:
        >>> speed = Speed(2, 4e9, {"float32": 1e11}, 0.5, 1e10, 1e-4)
        >>> made = combined([speed], [Link(("CPU:0", "CPU:1"), "one process", 2e-5, 5e9)], [""])
        >>> made.devices, made.within
        (2, Link(bandwidth=5000000000.0, latency=1e-05, per_device=None))
    """
    broken = next((link for link in links if link.problem), None)
    if broken is not None:
        raise PlanError(
            f"Expected links that work to write a cluster file, received {' - '.join(broken.ends)}, which is broken: "
            f"{broken.problem}."
        )
    # Workers of one host are one machine with all their devices.
    by_host = {
        name: sum(speed.devices for speed, host in zip(speeds, hosts, strict=True) if host == name) for name in hosts
    }
    if len(set(by_host.values())) > 1:
        raise PlanError(f"Expected machines with equal numbers of devices, received {by_host}. Write a file by hand.")
    rate = min(speed.memory_rate for speed in speeds)
    within = _slowest([link for link in links if link.kind != "network"])
    return Hardware(
        name="measured",
        devices_per_machine=next(iter(by_host.values())),
        memory_per_device=min(speed.memory for speed in speeds),
        flops={dtype: min(speed.flops[dtype] for speed in speeds) for dtype in speeds[0].flops},
        efficiency=min(speed.efficiency for speed in speeds),
        # A machine with one device has no link of its own; within it, memory is the link.
        within=within or Bandwidth(rate, 0.0),
        machines=len(by_host),
        between=_slowest([link for link in links if link.kind == "network"]),
        memory_bandwidth=rate,
        action_start=max(speed.start for speed in speeds),
        loop_step=max(speed.loop_step for speed in speeds),
    )


def _slowest(links: Sequence[Link]) -> Bandwidth | None:
    """Return the slowest of some links; a sum over two ends sends each byte once, in two steps."""
    if not links:
        return None
    rate, latency = min(link.rate for link in links), max(link.latency for link in links)
    return Bandwidth(rate, 0.0 if math.isnan(latency) else latency / 2)
