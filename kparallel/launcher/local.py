"""The environment of each worker of a local gang."""

import contextlib
import os
import secrets
import socket
from collections.abc import Mapping

from kparallel.cluster import Cluster
from kparallel.launcher.gpus import divide_gpus, visible_gpus

__all__: list[str] = []


def local_environments(
    environment: Mapping[str, str], workers: int, devices_per_worker: int | None
) -> list[dict[str, str]]:
    """Return what each local worker's environment is: its place in the cluster and its share of the machine.

    Args:
        environment: This process's environment variables.
        workers: How many workers there are.
        devices_per_worker: Virtual CPU devices for each; default the GPUs, divided, where there are any.

    Raises:
        DeviceError: The workers do not divide the GPUs evenly.
    """
    addresses = free_addresses(workers)
    gpus = [[] for _ in addresses] if devices_per_worker else divide_gpus(visible_gpus(environment), workers)
    # Without a share each worker's TensorFlow would take all cores.
    # Nobody but the workers of this gang knows it, so that no stranger can greet one of them.
    token = secrets.token_hex(16)
    threads = max(1, (os.cpu_count() or 1) // workers)
    result = []
    for index in range(workers):
        own = {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index]) or "-1"}
        if workers > 1:
            own |= {"TF_CONFIG": Cluster(addresses, index).to_tf_config()}
        result.append(
            {
                "TF_NUM_INTRAOP_THREADS": str(threads),
                "TF_CPP_MIN_LOG_LEVEL": "1",
                "KPARALLEL_TOKEN": token,
                **environment,
                **own,
            }
        )
    return result


def free_addresses(count: int) -> tuple[str, ...]:
    """Return as many loopback addresses whose ports are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
