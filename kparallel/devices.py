"""The devices of this process, and in one program over several machines those of all machines."""

from collections.abc import Iterable, Sequence

import tensorflow as tf

from kparallel.cluster import read_cluster, read_one_program
from kparallel.errors import DeviceError
from kparallel.mesh import device_kind, device_name, device_worker

__all__: list[str] = []

_KINDS = ("GPU", "CPU")


def local_devices() -> tuple[str, ...]:
    """Return every local GPU, or every local CPU device if there is no GPU.

    In one program over several machines these are the devices of all machines, worker by worker.

    Raises:
        DeviceError: TensorFlow lists no device, or some machines have GPUs and others none.
    """
    return devices_of_one_kind([name for kind in _KINDS for name in _listed(kind)])


def devices_of_one_kind(listed: Sequence[str]) -> tuple[str, ...]:
    """Return each machine's GPUs, or its CPU devices if it has none.

    Args:
        listed: All devices, the GPUs first, each kind worker by worker.

    Raises:
        DeviceError: There is none, or some machines have GPUs and others none.

    Example:
        >>> devices_of_one_kind(["GPU:0", "GPU:1", "CPU:0"])
        ('GPU:0', 'GPU:1')
    """
    kinds: dict[int | None, str] = {}
    for name in listed:
        kinds.setdefault(device_worker(name), device_kind(name))
    if not kinds:
        raise DeviceError("TensorFlow lists no device on this machine.")
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{kind}s on worker {worker}" for worker, kind in sorted(kinds.items(), key=str))
        raise DeviceError(
            f"Expected devices of one kind on all machines, received {found}. Name those to use in devices=, or set "
            "CUDA_VISIBLE_DEVICES=-1 on the machines that have GPUs."
        )
    return tuple(name for name in listed if device_kind(name) in kinds.values())


def has_several_machines() -> bool:
    """Return whether this is one program over several machines, and not a process that it has started."""
    if read_one_program() is None or read_cluster() is not None:
        return False  # Before TensorFlow starts, as the list of devices would make it.
    workers = {device_worker(device.name) for device in tf.config.list_logical_devices("CPU")}
    return len(workers) > 1


def _listed(kind: str) -> tuple[str, ...]:
    """Return the devices of one kind that this process may use, worker by worker."""
    names = [device_name(device.name) for device in tf.config.list_logical_devices(kind)]
    if has_several_machines():
        return tuple(sorted(names, key=lambda name: (device_worker(name) or 0, int(name.rpartition(":")[2]))))
    # In a cluster TensorFlow lists the devices of the other workers too.
    cluster = read_cluster()
    # /device:CPU:0                             on one machine
    # /job:worker/replica:0/task:1/device:CPU:0 in a cluster, for each worker
    own = [name for name in names if cluster is None or device_worker(name) in (None, cluster.index)]
    return tuple(_without_worker(name) for name in own)


def _without_worker(name: str) -> str:
    return name.rpartition("/")[2]


def check_devices(devices: Sequence[str]) -> tuple[str, ...]:
    """Return the short names of devices, after a check that they exist.

    In one program over several machines they tell the worker: `"worker1/GPU:0"`; `"GPU:0"` is worker 0's.

    Raises:
        DeviceError: The argument is no list of names, or TensorFlow does not list a device.
    """
    if isinstance(devices, str):
        raise DeviceError(f"Expected a list of device names, received the string {devices!r}. Write [{devices!r}].")
    if not isinstance(devices, Iterable) or not all(isinstance(name, str) for name in devices):
        raise DeviceError(f"Expected a list of device names, such as ['CPU:0', 'CPU:1'], received {devices!r}.")
    known = {name for kind in _KINDS for name in _listed(kind)}
    names = tuple(_completed(device_name(name)) for name in devices)
    unknown = [name for name in names if name not in known]
    if unknown:
        way_out = "kparallel.virtual_devices(n), called first, makes n virtual CPU devices."
        if has_several_machines():
            way_out = "kparallel run --devices-per-worker n gives each machine n virtual CPU devices."
        raise DeviceError(f"Expected devices out of {sorted(known)}, received {unknown}. {way_out}")
    return names


def _completed(name: str) -> str:
    """Return a short name as `_listed` has it: with the worker in one program over several machines, else without."""
    worker, cluster = device_worker(name), read_cluster()
    if has_several_machines():
        return name if worker is not None else f"worker0/{name}"
    return _without_worker(name) if cluster is not None and worker == cluster.index else name


def virtual_devices(count: int) -> tuple[str, ...]:
    """Split the CPU into virtual devices, so that a plan can run without accelerators.

    Call it before anything else uses TensorFlow.

    Args:
        count: The number of devices, at least 1.

    Returns:
        The names of the devices, `("CPU:0", ...)`.

    Raises:
        DeviceError: `count` is below 1, or TensorFlow has started with another number of devices.

    Example:
        >>> virtual_devices(2)
        ('CPU:0', 'CPU:1')
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise DeviceError(f"Expected at least one virtual device, a whole number, received {count!r}.")
    cpu = tf.config.list_physical_devices("CPU")[0]
    configuration = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
    try:
        tf.config.set_logical_device_configuration(cpu, configuration)
    except RuntimeError as error:
        several = has_several_machines()
        # TensorFlow refuses any change after its start, but the number may be the one that is there already, as in a
        # notebook cell that runs twice.
        present = len([name for name in _listed("CPU") if not several or device_worker(name) == 0])
        way_out = "Call kparallel.virtual_devices first thing in the program."
        if several:
            way_out = "kparallel run --devices-per-worker n gives each machine n virtual CPU devices."
        if present != count:
            raise DeviceError(
                f"Expected to be called before TensorFlow starts; it runs with {present} CPU device(s) already. "
                f"{way_out}"
            ) from error
    return tuple(f"CPU:{index}" for index in range(count))
