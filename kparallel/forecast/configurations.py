"""The configurations among which a search chooses."""

from collections.abc import Iterator
from math import ceil

from kparallel.forecast.configuration import NEIGHBORS, Configuration, Fixed
from kparallel.forecast.hardware import Hardware
from kparallel.planning.plan import RECOMPUTE
from kparallel.schedule import SCHEDULES, registered

__all__: list[str] = []

# The orders in which one device may run several stages. Interleaved keeps the fewest activations, and GPipe brings the
# weights of a stage the fewest times.
_ONE_LANE = ("interleaved", "gpipe")
_MOST_PER_LANE = 8  # Stages on a device. With more of them, transfers take what the bubble gives.


def configurations(hardware: Hardware, batch_size: int, most_stages: int, fixed: Fixed) -> Iterator[Configuration]:
    """Yield what the devices, the rows of a batch and the user's values allow.

    Replicas take all devices, but for those without which the largest share of a batch is as small. Numbers of devices
    of a replica and of microbatches are those without prime factors above 3: others are seldom much better.

    Args:
        hardware: The cluster.
        batch_size: The number of rows of a global batch.
        most_stages: The largest number of stages into which the model can be cut.
        fixed: What the user has fixed.
    """
    # replica x lane       the devices of the mesh
    # stages               lanes, or a multiple of it with a schedule that deals several stages to a lane
    for schedule, lanes, stages in _shapes(hardware.devices, most_stages, fixed):
        for replicas in _replicas(min(hardware.devices // lanes, batch_size), batch_size, lanes, fixed):
            for microbatches in _microbatches(ceil(batch_size / replicas), lanes, schedule, fixed):
                for recompute, shard, neighbors in _rest(hardware, replicas, lanes, stages, microbatches, fixed):
                    yield Configuration(replicas, lanes, stages, microbatches, schedule, recompute, shard, neighbors)


def smooth(most: int) -> list[int]:
    """Return the whole numbers from 1 on that have no prime factor above 3.

    Example:
        >>> smooth(20)
        [1, 2, 3, 4, 6, 8, 9, 12, 16, 18]
    """
    powers = range(most.bit_length())
    return sorted(2**i * 3**j for i in powers for j in powers if 2**i * 3**j <= most)


def _shapes(devices: int, most_stages: int, fixed: Fixed) -> Iterator[tuple[str, int, int]]:
    """Yield schedules, devices of a replica and stages."""
    names = list(SCHEDULES) if fixed.schedule is None else [fixed.schedule]
    if fixed.stages in (None, 1):
        yield names[0], 1, 1  # With one stage all schedules are the same.
    if fixed.shard == "weights" or (fixed.shard == "auto" and fixed.schedule in (None, *_ONE_LANE)):
        # Several stages on the only device of a replica: what weights are brought for.
        numbers = smooth(most_stages) if fixed.stages is None else [min(fixed.stages, most_stages)]
        orders = _ONE_LANE if fixed.schedule is None else (fixed.schedule,)
        chosen = [stages for stages in numbers if stages > 1 and fixed.stages in (None, stages)]
        yield from ((order, 1, stages) for stages in chosen for order in orders)
    if fixed.shard == "weights":
        return
    largest = min(devices, most_stages)
    for name in names:
        for lanes in sorted({*smooth(largest), largest, min(fixed.stages or 1, largest)} - {1}):
            for stages in range(lanes, (_MOST_PER_LANE if registered(name).dealt else 1) * lanes + 1, lanes):
                fits = stages <= most_stages and fixed.stages in (None, stages)
                # With one stage on each device, interleaved is 1F1B.
                if fits and (stages > lanes or not registered(name).dealt or fixed.schedule is not None):
                    yield name, lanes, stages


def _replicas(most: int, batch_size: int, lanes: int, fixed: Fixed) -> list[int]:
    """Return as many replicas as there are devices for; and fewer, where these leave a pipeline few microbatches."""
    if fixed.replicas is not None:
        return [fixed.replicas] if fixed.replicas <= most else []
    # `rows` are sizes of the largest share. Two numbers of replicas with the same largest share take the same time,
    # and the smaller one needs fewer devices.
    rows = {ceil(batch_size / most)}
    if lanes > 1 and min(rows) < 4 * lanes:
        rows.add(min(batch_size, 4 * lanes))
    return sorted({ceil(batch_size / each) for each in rows}, reverse=True)


def _microbatches(rows: int, lanes: int, schedule: str, fixed: Fixed) -> list[int]:
    if fixed.microbatches is not None:
        return [fixed.microbatches] if fixed.microbatches <= rows else []
    # The interleaved schedule is at its best where the devices divide the microbatches.
    return [each for each in sorted({*smooth(rows), rows}) if not registered(schedule).dealt or each % lanes == 0]


def _rest(
    hardware: Hardware, replicas: int, lanes: int, stages: int, microbatches: int, fixed: Fixed
) -> Iterator[tuple[str, str | None, str]]:
    """Yield the policy of recomputation, what is shared out, and what neighboring devices hold."""
    # Only then does it matter which of them are neighbors: a machine's devices are all alike.
    several = hardware.machines > 1 and replicas > 1 and lanes > 1
    for recompute in RECOMPUTE if fixed.recompute is None else (fixed.recompute,):
        if recompute == "except_last" and microbatches == 1:
            continue
        # Several stages on one device serve nothing but weights that are brought.
        alone: tuple[str | None, ...] = ("weights",) if stages > lanes == 1 else (None, "optimizer")
        for shard in alone if fixed.shard == "auto" else (fixed.shard,):
            if shard is None or replicas > 1:
                for neighbors in NEIGHBORS if several else NEIGHBORS[:1]:
                    yield recompute, shard, neighbors
