"""From the stage of each unit to the layer groups of a plan."""

from collections.abc import Sequence

from kparallel.errors import PlanError
from kparallel.planning.plan import LayerGroup
from kparallel.planning.units import Unit

__all__: list[str] = []


def layer_groups(
    units: Sequence[Unit], stage_of: Sequence[int], stages: int, costs: Sequence[float] | None = None
) -> tuple[LayerGroup, ...]:
    """Gather the units of each stage.

    Args:
        units: The model's units, in topological order.
        stage_of: The stage of each unit.
        stages: Number of stages.
        costs: What each unit costs, in any unit; default its FLOPs.

    Returns:
        One layer group per stage.

    Raises:
        PlanError: A stage is empty, or has neither weights nor work.
    """
    costs = [unit.flops_per_row for unit in units] if costs is None else costs
    whole = sum(costs)
    groups = []
    for stage in range(stages):
        mine = tuple(index for index, at in enumerate(stage_of) if at == stage)
        names = [units[index].name for index in mine]
        parameters = sum(units[index].parameters for index in mine)
        if not mine:
            raise PlanError(f"Expected every stage to have layers, received none for stage {stage}. Use fewer stages.")
        if not parameters and not sum(units[index].flops_per_row for index in mine):
            raise PlanError(
                f"Expected every stage to have weights or work, received stage {stage} of {names[:8]} alone. "
                "Put them into the stage before or behind."
            )
        groups.append(
            LayerGroup(
                layers=tuple(dict.fromkeys(name for index in mine for name in units[index].layers)),
                parameters=parameters,
                weight_bytes=sum(units[index].weight_bytes for index in mine),
                frozen_bytes=sum(units[index].frozen_bytes for index in mine),
                units=mine,
                share=sum(costs[index] for index in mine) / whole if whole else 1 / stages,
                activation_bytes_per_row=sum(units[index].activation_bytes_per_row for index in mine),
                arriving_bytes_per_row=_incoming(units, stage_of, mine),
            )
        )
    return tuple(groups)


def _incoming(units: Sequence[Unit], stage_of: Sequence[int], mine: Sequence[int]) -> int:
    stage = stage_of[mine[0]]
    read = {read for index in mine for read in units[index].reads if stage_of[read] < stage}
    return sum(units[index].output_bytes_per_row for index in read)
