"""Steps of a training made up by a clock, as if they had been recorded."""

from kparallel.mesh import Mesh
from kparallel.planning.plan import LayerGroup, Plan
from kparallel.schedule import clock
from kparallel.trace.attribution import owner
from kparallel.trace.events import Operation, RecordedStep
from kparallel.trace.lanes import assign_operations, lanes_of
from kparallel.trace.processes import Machine
from kparallel.trace.summary import summarize

GROUPS = (LayerGroup(("embed",), 4, 16, (0,), share=0.25), LayerGroup(("block", "head"), 4, 16, (1, 2), share=0.75))
HYBRID = Plan("net", Mesh((("CPU:0", "CPU:1"), ("CPU:2", "CPU:3"))), GROUPS, microbatches=2)
DATA = Plan("net", Mesh((("CPU:0",), ("CPU:1",))), (LayerGroup(("all",), 8, 32),))


def by_name(operation):
    return owner(operation.name)


def step_of(plan, costs=(1.0, 3.0), sums=0.0, update=1.0, late=0.0, bit=0.0):
    """Make the step that a clock predicts, from moment 10 on: host 1, input 1, actions, a sum, the update, host 1."""
    times = clock(plan.programs(), costs, [2 * cost for cost in costs])
    operations = []
    for replica in range(plan.mesh.replicas):
        scope = f"replica_{replica}/" if replica else ""
        for action, start in times.start.items():
            delay = 12 + late * replica
            bits = (delay + start - 2 * bit, delay + start - bit)  # What an action does before its work proper.
            operations.append(Operation(f"{scope}{action}/Identity", "Identity", *bits))
            operations.append(
                Operation(f"{scope}{action}/MatMul", "MatMul", delay + start, delay + times.finish[action])
            )
        for stage in range(plan.mesh.stages):
            ends = [finish for action, finish in times.finish.items() if action.stage == stage]
            summed = 12 + late * (plan.mesh.replicas - 1) + max(ends)
            if sums:
                operations.append(Operation(f"reduce{stage}/AddN", "AddN", summed, summed + sums))
        end = 12 + late * (plan.mesh.replicas - 1) + times.makespan + sums
        operations.append(Operation(f"{scope}update/adam/mul", "Mul", end, end + update))
    return RecordedStep(10.0, end + update + 1, (12.0, end + update), ((11.0, 12.0),), tuple(operations)), times


def laid_out(plan, step, worker=0):
    return assign_operations(step, lanes_of(plan, worker), lambda operation: owner(operation.name), plan.replicas == 1)


def summary_of(plan, *made, machine=None):
    made = [step for step, _ in made]
    return summarize(plan, made, [laid_out(plan, step) for step in made], machine or Machine())
