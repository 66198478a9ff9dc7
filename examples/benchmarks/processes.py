"""The processes that the benchmarks' arms consist of."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from examples.benchmarks.arms import Process, free_ports
from examples.benchmarks.work import WORK

__all__: list[str] = []

_KERAS = "examples.benchmarks.keras_arm"
_TORCH = "examples.benchmarks.torch_arm"


def keras_arm(work: str, kind: str, cores: Sequence[int], **options: Any) -> list[Process]:
    """Return an arm of one process that trains with Keras; options as in `keras_arm.main`."""
    return [Process(_KERAS, {"work": work, "kind": kind, "batch": WORK[work].batch, **options}, cores)]


def keras_workers(work: str, module: str = _KERAS, workers: int = 2, **options: Any) -> list[Process]:
    """Return an arm of several workers, worker i pinned to core i; the batch of one worker stays what it is."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    options = {"work": work, "kind": "wrapped", "batch": workers * WORK[work].batch, **options}
    return [
        Process(module, options, [index], environment={"TF_CONFIG": _tf_config(addresses, index)})
        for index in range(workers)
    ]


def apart(work: str, workers: int = 2) -> list[Process]:
    """Return workers that train at the same time and tell one another nothing: what the machine itself allows."""
    return [process for index in range(workers) for process in keras_arm(work, "wrapped", [index])]


def legacy_arm(work: str, cores: Sequence[int], python: str) -> list[Process]:
    """Return an arm that trains with the legacy `tf_keras` under `MirroredStrategy` on two virtual devices."""
    options = {"work": work, "batch": WORK[work].batch, "devices": 2}
    return [Process("examples.benchmarks.legacy_arm", options, cores, python)]


def torch_arm(work: str, kind: str, python: str, workers: int = 1, **options: Any) -> list[Process]:
    """Return an arm that trains with PyTorch, worker i pinned to core i; options as in `torch_arm.main`."""
    port = free_ports(1)[0]
    return [
        Process(
            _TORCH,
            {"work": work, "kind": kind, "batch": WORK[work].batch, "workers": workers, "index": index, **options},
            [index],
            python,
            {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"},
        )
        for index in range(workers)
    ]


def _tf_config(addresses: Sequence[str], index: int) -> str:
    config: Mapping[str, Any] = {"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": index}}
    return json.dumps(config)
