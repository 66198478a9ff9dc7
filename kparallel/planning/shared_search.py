"""Chooses the number of stages where the replicas share the weights out: as few as the memory of a device allows."""

from collections.abc import Iterator
from dataclasses import replace

from kparallel.errors import PlanError
from kparallel.mesh import Mesh
from kparallel.planning.cut import most_stages, partition
from kparallel.planning.groups import layer_groups
from kparallel.planning.plan import Plan
from kparallel.planning.report import count, format_bytes
from kparallel.planning.request import Request
from kparallel.planning.shares import shares

__all__: list[str] = []


def choose_shared(request: Request) -> Plan:
    """Choose the fewest stages on each device that fit, and recomputation only where no number of stages fits without.

    Each device is a replica and runs all stages, since a stage is what weights are brought for: the more there are, the
    fewer bytes are brought at a time, and the more often.

    Args:
        request: With a memory limit. Replicas are by default as many as devices, but no more than the batch has rows;
            microbatches are 1, with which each weight is brought twice in a step.

    Returns:
        The plan, with its reason.

    Raises:
        PlanError: No number of stages fits; the message has the closest miss.

    Example:
        >>> from kparallel.planning.units import Unit
        >>> units = [Unit(f"dense_{i}", 1e6, 1000, 4000, 4000, 4000, (), (f"dense_{i}",)) for i in range(4)]
        >>> choose_shared(Request(units, ["CPU:0", "CPU:1"], batch_size=2, memory_per_device="65kB")).reason
        '4 stages on each device are the fewest that fit: 64 kB of 65 kB'
    """
    limit, units, costs, replicas = request.limit, request.units, request.unit_costs, request.replicas
    rows = list(request.devices)[: replicas or min(len(request.devices), request.batch_size)]
    if len(rows) < (replicas or 0):
        raise PlanError(f"Expected at most {len(rows)} replicas for the devices {rows}, received {replicas}.")
    most = max(1, most_stages(costs, units))
    numbers = [request.stages] if request.stages is not None else list(range(1, most + 1))

    def plans() -> Iterator[Plan]:
        for policy in ("never", "always") if request.recompute is None else (request.recompute,):
            for number in numbers:
                starts = partition(costs, number, units)
                stage_of = [sum(index >= start for start in starts) - 1 for index in range(len(units))]
                yield Plan(
                    request.model_name,
                    Mesh(tuple((device,) * number for device in rows)),
                    layer_groups(units, stage_of, number, costs),
                    request.microbatches or 1,
                    request.schedule,
                    policy,
                    request.batch_size,
                    request.slots,
                    shard="weights",
                )

    least: tuple[float, Plan] | None = None
    for plan in plans():
        needed = shares(plan).total
        if needed <= limit:
            return _with_reason(plan, needed, limit, len(numbers) > 1)
        least = (needed, plan) if least is None or needed < least[0] else least
    assert least is not None
    needed, plan = least
    raise PlanError(
        f"Expected a plan that fits {format_bytes(limit)} per device; there is none with shard='weights'. The closest "
        f"miss is {count(plan.mesh.stages, 'stage')} on each device with recompute {plan.recompute!r}, which needs "
        f"{format_bytes(needed)}. Use more devices, a smaller batch_size (now {request.batch_size}), or an optimizer "
        "with fewer slots."
    )


def _with_reason(plan: Plan, needed: float, limit: float, is_chosen: bool) -> Plan:
    number = plan.mesh.stages
    on_each = f"{count(number, 'stage')} on each device"
    text = f"{on_each} {'is' if number == 1 else 'are'} the fewest that fit" if is_chosen else f"{on_each} fit"
    return replace(plan, reason=f"{text}: {format_bytes(needed)} of {format_bytes(limit)}")
