"""Which link carries what, if devices are numbered machine by machine.

With 2 replicas of 4 stages on machines of 4 devices, `neighbors` is

```text
            "stages"                        "replicas"
machine 0   r0s0 r0s1 r0s2 r0s3             r0s0 r1s0 r0s1 r1s1       activations go from s to s + 1,
machine 1   r1s0 r1s1 r1s2 r1s3             r0s2 r1s2 r0s3 r1s3       gradients between the r of one s
```
"""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from math import log2

from kparallel.forecast.hardware import Hardware

__all__: list[str] = []

_TREE = 0.9  # The share of a link's bandwidth that a tree of NCCL makes use of: src/graph/tuning.cc.


@dataclass(frozen=True)
class Group:
    """The devices of one stage, between which gradients are summed.

    Args:
        members: The number of devices.
        machines: The number of machines on which they are.
        on_one: The largest number of them on one machine.
        sharers: The number of such groups that use the link of a machine at the same time.
    """

    members: int
    machines: int
    on_one: int
    sharers: int


@dataclass(frozen=True)
class Placement:
    """What the devices of a mesh have between them.

    Args:
        crosses: By lane: whether what it sends to the next one, or the last one to the first, leaves a machine.
        senders: The largest number of devices of a machine that send to another machine at the same time.
        group: The group with the longest way.
    """

    crosses: tuple[bool, ...]
    senders: int
    group: Group


@lru_cache(maxsize=4096)
def place(devices_per_machine: int, replicas: int, lanes: int, neighbors: str) -> Placement:
    """Return how a mesh lies on machines.

    Args:
        devices_per_machine: The number of devices of a machine.
        replicas, lanes: The shape of the mesh.
        neighbors: `"stages"` or `"replicas"`, as in `Configuration`.

    Example:
        >>> place(4, 2, 4, "stages").group
        Group(members=2, machines=2, on_one=1, sharers=4)
        >>> place(4, 2, 4, "replicas").crosses
        (False, True, False, True)
    """

    def machine(replica: int, lane: int) -> int:
        # Devices are numbered machine by machine, so neighbors in this number are on one machine.
        index = replica * lanes + lane if neighbors == "stages" else lane * replicas + replica
        return index // devices_per_machine

    groups = [Counter(machine(replica, lane) for replica in range(replicas)) for lane in range(lanes)]
    # For each machine: how many groups reach beyond it, and so share its link.
    apart = Counter(each for group in groups if len(group) > 1 for each in group)
    # Forward, lane after lane. The way back is that of the other direction, and links carry both at once.
    hops = [
        (lane, machine(replica, lane))
        for lane in range(lanes)
        for replica in range(replicas)
        if machine(replica, lane) != machine(replica, (lane + 1) % lanes)
    ]
    crossing = {lane for lane, _ in hops}
    # Steps end when the slowest group has summed: the one over most machines, then with most members on one.
    widest = max(groups, key=lambda group: (len(group), max(group.values())))
    return Placement(
        tuple(lane in crossing for lane in range(lanes)),
        max(Counter(source for _, source in hops).values(), default=1),
        Group(replicas, len(widest), max(widest.values()), max(apart.values(), default=1)),
    )


def hop(hardware: Hardware, placement: Placement, lane: int, size: float) -> tuple[float, float]:
    """Return the time that bytes take from a lane to the next one, and the part in which they occupy the link.

    Args:
        hardware: The cluster.
        placement: How the mesh lies on it.
        lane: The lane that sends.
        size: Bytes.
    """
    between = hardware.between if placement.crosses[lane] else None
    link, sharers = (hardware.within, 1) if between is None else (between, placement.senders)
    return link.latency + size / link.rate(sharers), size / link.rate(sharers)


def all_reduce(hardware: Hardware, group: Group, size: float) -> float:
    """Return the seconds of summing a tensor over a group.

    A ring sends every byte nearly twice, in 2 (n - 1) steps one after another:
    2 (n - 1) / n bytes / bandwidth + steps x latency. NCCL takes a tree where that is faster, for the steps are
    as many as the logarithm of the number of machines. Half of the time is the sum to owners, or the way back.

    Args:
        hardware: The cluster.
        group: The devices.
        size: Bytes of the tensor on each device.

    Source of both: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms", 2009, and NCCL, src/graph/tuning.cc.
    """
    members, machines = group.members, group.machines
    if members == 1:
        return 0.0
    bandwidth, far = hardware.within.rate(), 0.0
    if machines > 1:
        assert hardware.between is not None
        link = hardware.between
        # What a machine's link gives the group, and what the group's own devices there can put into it.
        share = min(link.bandwidth / group.sharers, group.on_one * (link.per_device or link.bandwidth))
        bandwidth, far = min(share, bandwidth) if group.on_one > 1 else share, link.latency
    near = hardware.within.latency
    ring = 2 * (members - 1) / members * size / bandwidth + 2 * (members - machines) * near + 2 * (machines - 1) * far
    if hardware.all_reduce == "ring":
        return ring
    tree = 2 * size / (_TREE * bandwidth) + 2 * (group.on_one - 1) * near + 2 * log2(machines) * far
    return min(ring, tree)
