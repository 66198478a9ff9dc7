"""Which GPUs each local worker gets, counted without TensorFlow."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from kparallel.errors import DeviceError

__all__: list[str] = []


def visible_gpus(environment: Mapping[str, str], folder: Path = Path("/dev")) -> list[str]:
    """Return the names of the GPUs that a process would see, as `CUDA_VISIBLE_DEVICES` takes them.

    Args:
        environment: Environment variables.
        folder: Where the driver's device files are.
    """
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        names = [name.strip() for name in named.split(",") if name.strip()]
        # CUDA ignores what follows the first name that is none.
        return names[: names.index("-1")] if "-1" in names else names
    # The driver has a file /dev/nvidia0, /dev/nvidia1, ... for each GPU. Asking TensorFlow would start it, with all
    # GPUs.
    numbers = [found[1] for name in sorted(os.listdir(folder)) if (found := re.fullmatch(r"nvidia(\d+)", name))]
    return sorted(numbers, key=int)


def divide_gpus(gpus: list[str], workers: int) -> list[list[str]]:
    """Give each worker the same number of GPUs, neighbours together.

    Args:
        gpus: What `visible_gpus` returned.
        workers: How many workers there are.

    Returns:
        One list for each worker; all empty where there is no GPU.

    Raises:
        DeviceError: The workers do not divide the GPUs evenly.

    Example:
        >>> divide_gpus(["0", "1", "2", "3"], 2)
        [['0', '1'], ['2', '3']]
    """
    if len(gpus) % workers:
        raise DeviceError(
            f"Expected a number of workers that divides the {len(gpus)} GPUs {gpus}, received {workers}. Start another "
            "number, hide GPUs with CUDA_VISIBLE_DEVICES, or train on CPUs with --devices-per-worker."
        )
    each = len(gpus) // workers
    return [gpus[worker * each : (worker + 1) * each] for worker in range(workers)]
