"""Chooses the mesh from the user's options and the devices of the machine."""

from collections.abc import Mapping, Sequence

from kparallel.devices import check_devices, has_several_machines, local_devices
from kparallel.errors import PlanError
from kparallel.mesh import Mesh
from kparallel.model.machine_columns import check_first_column, machine_columns
from kparallel.model.options import Options
from kparallel.schedule import registered

__all__: list[str] = []


def choose_mesh(options: Options, stages: int, workers: int) -> Mesh:
    """Return this worker's mesh: a row of devices for each of its replicas.

    Args:
        options: The user's options.
        stages: The number of stages.
        workers: The number of workers that share the replicas.

    Raises:
        DeviceError: A device is unknown or repeated, or the devices are of several kinds.
        PlanError: There are too few devices, or the workers do not divide the replicas.
    """
    if isinstance(options.stages, Mapping):
        if options.devices is not None:
            raise PlanError("Expected devices to be named once: as the keys of stages, or in devices, not in both.")
        named = check_devices(list(options.stages))
        Mesh(tuple((name,) for name in named))  # Refuses a device that is named twice.
        if (options.replicas or workers) != workers:
            raise PlanError(
                f"Expected one replica where stages name their devices, received replicas={options.replicas}. Give "
                "stages as a list of lists of layer names to repeat them over several rows of devices."
            )
        return check_first_column(Mesh((named,)))
    names = local_devices() if options.devices is None else check_devices(options.devices)
    Mesh(tuple((name,) for name in names))  # Refuses a device that is named twice.
    if has_several_machines():
        columns = machine_columns(names, options, stages)
    else:
        replicas = _local_replicas(options, stages, workers, names)
        # Fewer devices than stages: then some lanes run several.
        lanes = min(stages, len(names) // replicas)
        columns = tuple(tuple(names[row * lanes + lane] for row in range(replicas)) for lane in range(lanes))
    lanes = len(columns)
    schedule = registered(options.schedule)
    if schedule.dealt and stages % lanes:
        raise PlanError(
            f"Expected a number of stages that {lanes} devices divide for the schedule {options.schedule!r}, "
            f"received {stages}."
        )
    lane_of = [schedule.lane_of(stage, stages, lanes) for stage in range(stages)]
    return Mesh(tuple(zip(*(columns[lane] for lane in lane_of), strict=True)))


def check_mesh(mesh: Mesh) -> Mesh:
    """Return the mesh of a plan with its devices as TensorFlow lists them, after a check that they can be used.

    Raises:
        DeviceError: A device is unknown.
        PlanError: In one program over several machines, stage 0 is not on worker 0, or a column is on several machines.
    """
    return check_first_column(Mesh(tuple(map(check_devices, mesh.rows))))


def _local_replicas(options: Options, stages: int, workers: int, names: Sequence[str]) -> int:
    """Return the number of this worker's replicas."""
    way_out = "kparallel.virtual_devices(n), called first, makes n virtual CPU devices."
    if workers > 1:
        way_out = "kparallel run --devices-per-worker n gives each worker n virtual CPU devices."
    # TensorFlow's multi-worker strategy runs one replica on a worker's CPUs. The stages of that replica may use all of
    # the worker's virtual devices.
    one_replica = workers > 1 and names[0].startswith("CPU")
    if options.replicas is None:
        dealt = registered(options.schedule).dealt
        needed = 1 if dealt else stages
        if len(names) < needed:
            raise PlanError(
                f"Expected at most {len(names)} stages for the devices {list(names)}, received {stages}. {way_out} "
                f"Or say replicas={workers} to put several stages on one device."
            )
        return 1 if dealt or one_replica else len(names) // stages
    if options.replicas % workers:
        raise PlanError(f"Expected replicas that {workers} workers divide evenly, received {options.replicas}.")
    local = options.replicas // workers
    if one_replica and local > 1:
        raise PlanError(
            f"Expected one replica on each of {workers} workers, whose devices are CPUs, received replicas="
            f"{options.replicas}. Start {options.replicas} workers, or let stages use the other devices."
        )
    if local > len(names):
        raise PlanError(
            f"Expected 1 to {len(names) * workers} replicas for the devices {list(names)}, "
            f"received {options.replicas}. {way_out}"
        )
    return local
