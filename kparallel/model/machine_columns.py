"""The columns of a mesh over several machines in one program.

```text
                    worker 0              worker 1
                    stage 0   stage 1     stage 2   stage 3
        replica 0   GPU:0     GPU:2       GPU:0     GPU:2       few activations pass from machine to machine,
        replica 1   GPU:1     GPU:3       GPU:1     GPU:3       many gradients stay on the machine of their stage
```
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kparallel.errors import PlanError
from kparallel.mesh import Mesh, device_worker
from kparallel.model.options import Options
from kparallel.schedule import registered

__all__: list[str] = []

Column = tuple[str, ...]


def machine_columns(names: Sequence[str], options: Options, stages: int) -> tuple[Column, ...]:
    """Return the devices of each lane, worker by worker: a lane's replicas are on one machine.

    Every machine gets as many lanes as any other, as far as its devices allow; the first ones get what is left over.

    Args:
        names: The devices that may be used, of all machines.
        options: The user's options.
        stages: The number of stages.

    Raises:
        PlanError: There is one stage, so that the other machines would be idle; the devices are too few; or worker 0
            has none of them.
    """
    machines = _by_worker(names)
    if 0 not in machines:
        raise _first_elsewhere(names[0])
    if stages == 1 and len(machines) > 1:
        raise PlanError(
            f"Expected at least 2 stages in one program over {len(machines)} machines, received 1: replicas are all on "
            "the first machine, so that only this one would train. Say stages=2 or more, or start the script without "
            "--one-program, which gives each machine a replica."
        )
    replicas = options.replicas or _most_replicas(machines, options, stages)
    if any(replicas > len(own) for own in machines.values()):
        counts = ", ".join(f"{len(own)} on worker {worker}" for worker, own in machines.items())
        raise PlanError(
            f"Expected {replicas} devices on each machine for the {replicas} replicas of its stages, received "
            f"{counts}. Say a lower number of replicas, or give each machine more devices with kparallel run "
            "--devices-per-worker n."
        )
    capacity = {worker: len(own) // replicas for worker, own in machines.items()}
    lanes = _share(min(stages, sum(capacity.values())), capacity)
    return tuple(
        tuple(own[lane * replicas : (lane + 1) * replicas])
        for worker, own in machines.items()
        for lane in range(lanes[worker])
    )


def machine_rows(names: Sequence[str], options: Options, replicas: int, stages: int) -> tuple[Column, ...] | None:
    """Return the devices of each replica, one for each stage; None if they do not allow so many.

    Args:
        names: The devices that may be used, of all machines.
        options: The user's options.
        replicas: The number of replicas.
        stages: The number of stages.
    """
    try:
        columns = machine_columns(names, replace(options, replicas=replicas), stages)
    except PlanError:
        return None
    return tuple(zip(*columns, strict=True)) if len(columns) == stages else None


def check_first_column(mesh: Mesh) -> Mesh:
    """Return a mesh, after a check that TensorFlow can run its replicas from this process.

    Raises:
        PlanError: Stage 0 is not on worker 0, or a column is on several machines.
    """
    for stage in range(mesh.stages):
        workers = {device_worker(name) or 0 for name in mesh.column(stage)}
        if stage == 0 and workers != {0}:
            raise _first_elsewhere(mesh.rows[0][0])
        if len(workers) > 1:
            raise PlanError(
                f"Expected the replicas of a stage on one machine, received {list(mesh.column(stage))} for stage "
                f"{stage}. Give each stage devices of one worker, or start the script without --one-program."
            )
    return mesh


def _first_elsewhere(name: str) -> PlanError:
    return PlanError(
        f"Expected stage 0 on worker 0, which runs the script and reads the data, received {name!r}. Name a device of "
        "worker 0 first."
    )


def _by_worker(names: Sequence[str]) -> Mapping[int, list[str]]:
    machines: dict[int, list[str]] = {}
    for name in sorted(names, key=lambda name: device_worker(name) or 0):  # Stable: in each machine as given.
        machines.setdefault(device_worker(name) or 0, []).append(name)
    return machines


def _most_replicas(machines: Mapping[int, Sequence[str]], options: Options, stages: int) -> int:
    """Return the largest number of replicas whose stages all have devices of their own, on all machines.

    Raises:
        PlanError: There are more stages than devices.
    """
    if registered(options.schedule).dealt:
        return 1
    for replicas in range(min(map(len, machines.values())), 0, -1):
        if sum(len(own) // replicas for own in machines.values()) >= stages:
            return replicas
    names = [name for own in machines.values() for name in own]
    raise PlanError(
        f"Expected at most {len(names)} stages for the devices {names} of all machines, received {stages}. Start more "
        "workers, or more devices on each with kparallel run --devices-per-worker n, or say replicas=1 to put several "
        "stages on one device."
    )


def _share(lanes: int, capacity: Mapping[int, int]) -> dict[int, int]:
    """Return how many lanes each machine has: as even as the capacities allow."""
    shares = dict.fromkeys(capacity, 0)
    for _ in range(lanes):
        free = [worker for worker in shares if shares[worker] < capacity[worker]]
        shares[min(free, key=lambda worker: shares[worker])] += 1
    return shares
