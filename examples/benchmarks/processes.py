"""The processes that the benchmarks' arms consist of."""

from collections.abc import Sequence
from typing import Any

from examples.benchmarks.arms import Process
from examples.benchmarks.work import WORK
from kparallel.cluster import Cluster
from kparallel.launcher.local import free_addresses

__all__: list[str] = []

_KERAS = "examples.benchmarks.keras_arm"
_TORCH = "examples.benchmarks.torch_arm"


def keras_arm(work: str, kind: str, cores: Sequence[int], **options: Any) -> list[Process]:
    """Return an arm of one process that trains with Keras; options as in `keras_arm.main`."""
    return [Process(_KERAS, {"work": work, "kind": kind, "batch": WORK[work].batch, **options}, cores)]


def keras_workers(work: str, module: str = _KERAS, workers: int = 2, **options: Any) -> list[Process]:
    """Return an arm of several workers, worker i pinned to core i; the batch of one worker stays what it is."""
    addresses = free_addresses(workers)
    options = {"work": work, "kind": "wrapped", "batch": workers * WORK[work].batch, **options}
    return [
        Process(module, options, [index], environment={"TF_CONFIG": Cluster(addresses, index).to_tf_config()})
        for index in range(workers)
    ]


def apart(work: str, workers: int = 2, kind: str = "wrapped", **options: Any) -> list[Process]:
    """Return workers that train at the same time and do not communicate: what the machine itself allows."""
    return [process for index in range(workers) for process in keras_arm(work, kind, [index], **options)]


def legacy_arm(work: str, cores: Sequence[int], python: str) -> list[Process]:
    """Return an arm that trains with the legacy `tf_keras` under `MirroredStrategy` on two virtual devices."""
    options = {"work": work, "batch": WORK[work].batch, "devices": 2}
    return [Process("examples.benchmarks.legacy_arm", options, cores, python)]


def torch_arm(
    work: str, kind: str, python: str, workers: int = 1, first_core: int = 0, **options: Any
) -> list[Process]:
    """Return an arm that trains with PyTorch, each worker on a core of its own; options as in `torch_arm.main`."""
    host, _, port = free_addresses(1)[0].rpartition(":")
    return [
        Process(
            _TORCH,
            {"work": work, "kind": kind, "batch": WORK[work].batch, "workers": workers, "index": index, **options},
            [first_core + index],
            python,
            {"MASTER_ADDR": host, "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"},
        )
        for index in range(workers)
    ]
