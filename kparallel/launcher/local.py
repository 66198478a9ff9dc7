"""The environment of each worker of a local gang."""

import contextlib
import os
import secrets
import socket
from collections.abc import Mapping, Sequence

from kparallel.cluster import Cluster
from kparallel.launcher.gpus import divide_gpus, visible_gpus

__all__: list[str] = []


def local_environments(
    environment: Mapping[str, str], places: Sequence[int], most: int, devices_per_worker: int | None
) -> list[dict[str, str]]:
    """Return what each local worker's environment is: its place in the cluster and its share of the machine.

    Args:
        environment: This process's environment variables.
        places: Of each worker on this machine, from 0: whose GPUs it gets. A lost worker's place may be empty.
        most: How many places there are.
        devices_per_worker: Virtual CPU devices for each; default the GPUs, divided, where there are any.

    Raises:
        DeviceError: The places do not divide the GPUs evenly.
    """
    workers = len(places)
    addresses = free_addresses(workers)
    gpus = [[] for _ in range(most)] if devices_per_worker else divide_gpus(visible_gpus(environment), most)
    # Nobody but the workers of this gang knows it, so that no stranger can greet one of them.
    token = secrets.token_hex(16)
    # Without a share each worker's TensorFlow would take all cores.
    threads = max(1, (os.cpu_count() or 1) // workers)
    shared = {name: value for name, value in environment.items() if name != "TF_CONFIG"}
    result = []
    for index, place in enumerate(places):
        own = {"CUDA_VISIBLE_DEVICES": ",".join(gpus[place]) or "-1"}
        if workers > 1:
            own |= {"TF_CONFIG": Cluster(addresses, index).to_tf_config()}
        result.append(
            {
                "TF_NUM_INTRAOP_THREADS": str(threads),
                "TF_CPP_MIN_LOG_LEVEL": "1",
                "KPARALLEL_TOKEN": token,
                **shared,
                **own,
            }
        )
    return result


def free_addresses(count: int) -> tuple[str, ...]:
    """Return as many loopback addresses whose ports are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            # All are held until the last is bound, so that no port is given twice.
            each.bind(("127.0.0.1", 0))
        return tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
