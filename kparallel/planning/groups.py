"""Makes the layer groups of a plan from the stage of each unit."""

from collections.abc import Sequence

from kparallel.errors import PlanError
from kparallel.planning.plan import LayerGroup
from kparallel.planning.units import Unit

__all__: list[str] = []


def layer_groups(
    units: Sequence[Unit], stage_of: Sequence[int], stages: int, costs: Sequence[float] | None = None
) -> tuple[LayerGroup, ...]:
    """Return one layer group for each stage.

    Args:
        units: The model's units, in topological order.
        stage_of: The stage of each unit.
        stages: Number of stages.
        costs: The cost of each unit, in any unit of measure; default its FLOPs.

    Raises:
        PlanError: A stage is empty, or has neither weights nor work.
    """
    costs = [unit.flops_per_row for unit in units] if costs is None else costs
    total = sum(costs)
    groups = []
    for stage in range(stages):
        members = tuple(index for index, stage_of_unit in enumerate(stage_of) if stage_of_unit == stage)
        names = [units[index].name for index in members]
        parameters = sum(units[index].parameters for index in members)
        if not members:
            raise PlanError(f"Expected every stage to have layers, received none for stage {stage}. Use fewer stages.")
        # FLOPs and not `costs`, which may be another measure, such as parameters: a stage without weights may still
        # have work.
        if not parameters and not sum(units[index].flops_per_row for index in members):
            raise PlanError(
                f"Expected every stage to have weights or work, received stage {stage} of {names[:8]} alone. "
                "Put them into the stage before or after."
            )
        arriving = _arriving(units, stage_of, members, stage)
        groups.append(
            LayerGroup(
                layers=tuple(dict.fromkeys(name for index in members for name in units[index].layers)),
                parameters=parameters,
                weight_bytes=sum(units[index].weight_bytes for index in members),
                frozen_bytes=sum(units[index].frozen_bytes for index in members),
                largest_bytes=max(units[index].largest_bytes for index in members),
                units=members,
                share=sum(costs[index] for index in members) / total if total else 1 / stages,
                activation_bytes_per_row=sum(units[index].activation_bytes_per_row for index in members),
                arriving_bytes_per_row=sum(arriving),
                arriving_from=arriving,
                loop_steps=sum(units[index].loop_steps for index in members),
            )
        )
    return tuple(groups)


def _arriving(units: Sequence[Unit], stage_of: Sequence[int], members: Sequence[int], stage: int) -> tuple[int, ...]:
    """Return the bytes that a stage reads from each earlier stage for one row."""
    # A set, because a value that several layers of the stage read arrives once.
    read = {read for index in members for read in units[index].reads}
    return tuple(
        sum(units[index].output_bytes_per_row for index in read if stage_of[index] == source) for source in range(stage)
    )
