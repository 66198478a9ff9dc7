"""The mesh: a grid of device names with the axes replica and stage. It does not depend on TensorFlow."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kparallel.errors import DeviceError

__all__: list[str] = []

# TensorFlow writes /job:worker/replica:0/task:1/device:GPU:0 where a user writes GPU:0, or worker1/GPU:0.
_DEVICE = re.compile(
    r"^(?:/job:(\w+)/replica:\d+/task:(\d+)|worker(\d+)(?=/))?/?(?:device:)?(CPU|GPU|TPU):(\d+)$", re.IGNORECASE
)


def device_name(name: str) -> str:
    """Shorten a TensorFlow device name to its kind and index, after the worker that has it where the name tells one.

    Args:
        name: Any spelling that TensorFlow accepts, such as `"gpu:0"` or `"/device:GPU:0"`, or a short name.

    Returns:
        The short name.

    Raises:
        DeviceError: The name is no device name.

    Example:
        >>> device_name("/job:localhost/replica:0/task:0/device:CPU:1")
        'CPU:1'
        >>> device_name("/job:worker/replica:0/task:2/device:GPU:0")
        'worker2/GPU:0'
    """
    match = _DEVICE.match(name) if isinstance(name, str) else None
    if match is None:
        raise DeviceError(
            "Expected a device name such as 'GPU:0' or 'CPU:1', or 'worker1/GPU:0' of a worker's in one program, "
            f"received {name!r}."
        )
    job, task, worker, kind, index = match.groups()
    short = f"{kind.upper()}:{int(index)}"
    if worker is None and job not in (None, "localhost"):
        worker = task
    return short if worker is None else f"worker{int(worker)}/{short}"


def device_worker(name: str) -> int | None:
    """Return the index of the worker that has a device; None where the name does not tell one.

    Example:
        >>> device_worker("worker1/CPU:0"), device_worker("CPU:0")
        (1, None)
    """
    worker, slash, _ = device_name(name).rpartition("/")
    return int(worker.removeprefix("worker")) if slash else None


def device_kind(name: str) -> str:
    """Return whether a device is a `"CPU"` or a `"GPU"`.

    Example:
        >>> device_kind("worker1/GPU:0")
        'GPU'
    """
    return device_name(name).rpartition("/")[2].partition(":")[0]


def full_device_name(name: str) -> str:
    """Return what TensorFlow calls a device of a worker; a name without a worker is short for this process's.

    Example:
        >>> full_device_name("worker1/GPU:0"), full_device_name("GPU:0")
        ('/job:worker/replica:0/task:1/device:GPU:0', 'GPU:0')
    """
    worker, short = device_worker(name), device_name(name).rpartition("/")[2]
    return short if worker is None else f"/job:worker/replica:0/task:{worker}/device:{short}"


@dataclass(frozen=True)
class Mesh:
    """A grid of devices: one row per replica, one column per stage.

    A row is one replica of the model. A column is the group of all devices that hold a copy of one stage; the gradients
    of the stage are reduced over it. A device may occur several times in its row: it then runs several stages.

    Args:
        rows: Short device names, `rows[replica_index][stage_index]`; of a machine in one program over several
            `"worker1/GPU:0"`, or TensorFlow's full name.

    Raises:
        DeviceError: There is no device, the rows differ in length, a device is in two rows, the rows put different
            stages on one device, or the devices are of several kinds.

    Example:
        >>> print(Mesh((("CPU:0",), ("CPU:1",))))
                    stage 0
        replica 0   CPU:0
        replica 1   CPU:1
    """

    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        rows = tuple(tuple(device_name(name) for name in row) for row in self.rows)
        # The class is frozen; the short names take the place of what was passed.
        object.__setattr__(self, "rows", rows)
        if not rows or not rows[0]:
            raise DeviceError("Expected at least one device, received none.")
        if len({len(row) for row in rows}) > 1:
            raise DeviceError(f"Expected rows of equal length, received lengths {[len(row) for row in rows]}.")
        # Each row's devices once, because a row may name a device for several stages. What then occurs twice is in two
        # rows.
        names = [name for row in rows for name in dict.fromkeys(row)]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise DeviceError(f"Expected each device once, received {repeated} more than once. Name every device once.")
        # `row.index(name)` is the first stage of the device that runs the stage, so these tuples have the pattern of a
        # row without its names:
        # a b a b  ─►  (0, 1, 0, 1)        c d d c  ─►  (0, 1, 1, 0)        the two rows have different lanes: refused
        if len({tuple(row.index(name) for name in row) for row in rows}) > 1:
            raise DeviceError(
                f"Expected every row to put the same stages on one device, received {[list(row) for row in rows]}."
            )
        kinds = sorted({device_kind(name) for name in names})
        if len(kinds) > 1:
            raise DeviceError(f"Expected devices of one kind, received {kinds}. Use CPUs only or GPUs only.")

    @property
    def replicas(self) -> int:
        """The number of rows."""
        return len(self.rows)

    @property
    def stages(self) -> int:
        """The number of columns."""
        return len(self.rows[0])

    def column(self, stage_index: int) -> tuple[str, ...]:
        """Return the devices that hold one stage, in the order of the replicas."""
        return tuple(row[stage_index] for row in self.rows)

    def __str__(self) -> str:
        width = max(len("stage 0"), *(len(name) for row in self.rows for name in row))
        head = " " * 12 + "   ".join(f"{f'stage {index}':<{width}}" for index in range(self.stages))
        body = [
            f"{f'replica {i}':<12}" + "   ".join(f"{name:<{width}}" for name in row) for i, row in enumerate(self.rows)
        ]
        return "\n".join(line.rstrip() for line in [head, *body])


def grid(devices: Sequence[str], replicas: int) -> Mesh:
    """Return the mesh of one column with the first `replicas` devices."""
    return Mesh(tuple((name,) for name in devices[:replicas]))
