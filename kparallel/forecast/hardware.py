"""The hardware of a cluster, as the planner sees it: devices, their speed and memory, and the links between them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil

from kparallel.errors import PlanError

__all__: list[str] = []

ALL_REDUCES = ("ring", "nccl")


@dataclass(frozen=True)
class Link:
    """A link between two devices, or between two machines.

    Args:
        bandwidth: Bytes a second in each direction. Within a machine those of one device; between machines those of
            one machine, which all its devices share.
        latency: Seconds until the first byte arrives.
        per_device: Bytes a second of which one device can make use; default all of `bandwidth`.
    """

    bandwidth: float
    latency: float
    per_device: float | None = None

    def rate(self, sharers: int = 1) -> float:
        """Return the bytes a second of one of several devices that send at the same time."""
        # The link is divided, and a device's own interface may carry less than its part.
        return min(self.bandwidth / sharers, self.per_device or self.bandwidth)


@dataclass(frozen=True)
class Hardware:
    """A cluster of equal machines with equal devices.

    Args:
        name: Its name, for reports.
        devices_per_machine: The number of devices of a machine.
        memory_per_device: Bytes.
        flops: FLOP/s that a device can do at most, by dtype.
        efficiency: The fraction of these FLOP/s that layers reach, from 0 to 1.
        within: The link between two devices of a machine.
        machines: The number of machines. Default 1.
        between: The link between two machines. Default None, which allows one machine only.
        memory_bandwidth: Bytes a second between a device and its memory. Default infinite: nothing waits for memory.
        action_start: Seconds that it takes to start one forward or backward pass of a stage. Default 0.
        all_reduce: `"ring"` (default), as kparallel's own between CPUs, or `"nccl"`, a ring or a tree, whichever is
            faster.
        loop_step: Seconds of the forward pass of one time step of a recurrent layer with next to nothing to compute.
            Default 0, as for layers that a library runs whole (cuDNN).

    Raises:
        PlanError: There is no device, a number is out of its range, or there are several machines and no link.

    Example:
        >>> node = Hardware("node", 8, 80e9, {"float32": 1e14}, 0.5, Link(3e11, 5e-6), between=Link(2e11, 1e-5))
        >>> node.with_devices(1024).machines, node.flop_rate("float32")
        (128, 50000000000000.0)
    """

    name: str
    devices_per_machine: int
    memory_per_device: float
    flops: Mapping[str, float] = field(hash=False)
    efficiency: float
    within: Link
    machines: int = 1
    between: Link | None = None
    memory_bandwidth: float = float("inf")
    action_start: float = 0.0
    all_reduce: str = "ring"
    loop_step: float = 0.0

    def __post_init__(self) -> None:
        if self.machines < 1 or self.devices_per_machine < 1:
            raise PlanError(
                f"Expected at least one machine with at least one device, received {self.machines} machines with "
                f"{self.devices_per_machine} devices each."
            )
        if not 0 < self.efficiency <= 1:
            raise PlanError(f"Expected an efficiency above 0 and at most 1, received {self.efficiency}.")
        if self.machines > 1 and self.between is None:
            raise PlanError(
                f"Expected the link between machines for {self.machines} machines, received none. Add the table "
                "[links.between_machines] with bandwidth and latency to the cluster file."
            )
        if self.all_reduce not in ALL_REDUCES:
            raise PlanError(f"Expected all_reduce to be one of {ALL_REDUCES}, received {self.all_reduce!r}.")

    @property
    def devices(self) -> int:
        """The number of devices of all machines."""
        return self.machines * self.devices_per_machine

    def with_devices(self, devices: int) -> "Hardware":
        """Return a cluster of such machines with another number of devices: part of one machine, or whole machines.

        Args:
            devices: The number of devices.

        Raises:
            PlanError: The number is below 1, is no multiple of a machine's devices, or needs a link between machines.
        """
        # Part of one machine needs no link to another one.
        if devices >= 1 and devices <= self.devices_per_machine:
            return replace(self, machines=1, devices_per_machine=devices)
        if devices < 1 or devices % self.devices_per_machine:
            whole = max(1, ceil(devices / self.devices_per_machine)) * self.devices_per_machine
            raise PlanError(
                f"Expected at least 1 device, and whole machines of {self.devices_per_machine} devices, received "
                f"{devices}. Say {whole}."
            )
        return replace(self, machines=devices // self.devices_per_machine)

    def flop_rate(self, dtype: str) -> float:
        """Return the FLOP/s that layers of a dtype reach on a device.

        Raises:
            PlanError: The cluster has no figure for this dtype.
        """
        if dtype not in self.flops:
            raise PlanError(
                f"Expected the FLOP/s of {dtype} in the cluster {self.name!r}, which has those of "
                f"{', '.join(self.flops)}. Add a line for {dtype} to the table [flops] of the cluster file."
            )
        return self.flops[dtype] * self.efficiency
