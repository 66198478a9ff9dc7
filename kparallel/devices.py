"""The devices of this process."""

from collections.abc import Iterable, Sequence

import tensorflow as tf

from kparallel.cluster import read_cluster
from kparallel.errors import DeviceError
from kparallel.mesh import device_name

__all__: list[str] = []


def local_devices() -> tuple[str, ...]:
    """Return every local GPU, or every local CPU device if there is no GPU.

    Raises:
        DeviceError: TensorFlow lists no device.
    """
    for kind in ("GPU", "CPU"):
        names = _listed(kind)
        if names:
            return names
    raise DeviceError("TensorFlow lists no device on this machine.")


def _listed(kind: str) -> tuple[str, ...]:
    """Return this process's devices of one kind."""
    # In a cluster TensorFlow lists the devices of the other workers too.
    cluster = read_cluster()
    task = "" if cluster is None else f"/task:{cluster.index}/"
    # /device:CPU:0                             on one machine
    # /job:worker/replica:0/task:1/device:CPU:0 in a cluster, for each worker
    listed = [device.name for device in tf.config.list_logical_devices(kind)]
    return tuple(device_name(name) for name in listed if task in name or "/task:" not in name)


def check_devices(devices: Sequence[str]) -> tuple[str, ...]:
    """Return the short names of devices, after a check that they exist.

    Raises:
        DeviceError: The argument is no list of names, or TensorFlow does not list a device.
    """
    if isinstance(devices, str):
        raise DeviceError(f"Expected a list of device names, received the string {devices!r}. Write [{devices!r}].")
    if not isinstance(devices, Iterable) or not all(isinstance(name, str) for name in devices):
        raise DeviceError(f"Expected a list of device names, such as ['CPU:0', 'CPU:1'], received {devices!r}.")
    known = {name for kind in ("CPU", "GPU") for name in _listed(kind)}
    names = tuple(device_name(name) for name in devices)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DeviceError(
            f"Expected devices out of {sorted(known)}, received {unknown}. "
            "kparallel.virtual_devices(n), called first, makes n virtual CPU devices."
        )
    return names


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
        present = len(tf.config.list_logical_devices("CPU"))
        # TensorFlow refuses any change after its start, but the number may be the one that is there already, as in a
        # notebook cell that runs twice.
        if present != count:
            raise DeviceError(
                f"Expected to be called before TensorFlow starts; it runs with {present} CPU device(s) already. "
                "Call kparallel.virtual_devices first thing in the program."
            ) from error
    return tuple(f"CPU:{index}" for index in range(count))
