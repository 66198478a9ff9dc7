"""The cluster of workers that train together: reads and checks `TF_CONFIG`, without TensorFlow.

```text
TF_CONFIG               each worker runs the script             kparallel run -n 2 train.py
KPARALLEL_ONE_PROGRAM   worker 0 runs it, the others serve      kparallel run -n 2 --one-program train.py
```
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kparallel.errors import ClusterError

__all__: list[str] = []

ONE_PROGRAM = "KPARALLEL_ONE_PROGRAM"
_EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}, '
    "with this worker's own index"
)
_REFUSED = {
    "evaluator": "evaluate in fit with validation_data, or in a program of its own without TF_CONFIG",
    "ps": "kparallel trains synchronously, without parameter servers",
}


def host_and_port(address: str) -> tuple[str, int]:
    """Split an address into host and port for a socket; an IPv6 host loses its brackets."""
    # From the right, because an IPv6 address has colons itself.
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


@dataclass(frozen=True)
class Cluster:
    """The workers that train together, seen from one of them.

    Args:
        workers: The `host:port` of every worker; worker 0 is the chief.
        index: This worker's index.

    Raises:
        ClusterError: An address is malformed or occurs twice, or the index is out of range.
    """

    workers: tuple[str, ...]
    index: int

    def __post_init__(self) -> None:
        for number, address in enumerate(self.workers):
            # From the right, because an IPv6 address has colons itself.
            host, _, port = address.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536 or re.search(r"[/\s]", host):
                raise ClusterError(
                    f"Expected host:port, such as 10.0.0.1:2222, as the address of worker {number}, received "
                    f"{address!r}."
                )
            first = self.workers.index(address)
            if first != number:
                raise ClusterError(
                    f"Expected an address of its own for each worker, received {address!r} for workers {first} and "
                    f"{number}."
                )
        if not 0 <= self.index < len(self.workers):
            raise ClusterError(
                f"Expected a worker index from 0 to {len(self.workers) - 1}, received {self.index} for the workers "
                f"{list(self.workers)}."
            )

    @property
    def address(self) -> str:
        """This worker's `host:port`."""
        return self.workers[self.index]

    def to_tf_config(self) -> str:
        """Return the value of `TF_CONFIG` for this cluster and this worker.

        Example:
            >>> Cluster(("a:1", "b:1"), 1).to_tf_config()
            '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'
        """
        task = {"type": "worker", "index": self.index}
        return json.dumps({"cluster": {"worker": list(self.workers)}, "task": task})


def read_cluster(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """Return the cluster in `TF_CONFIG`, or None for a single worker.

    A `chief` is worker 0, and the others follow, in TensorFlow's order.

    Args:
        environment: The environment variables. Default: those of this process.

    Raises:
        ClusterError: `TF_CONFIG` is malformed; the message names the field.

    Example:
        >>> config = '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "worker", "index": 0}}'
        >>> read_cluster({"TF_CONFIG": config})
        Cluster(workers=('a:1', 'b:1'), index=1)
    """
    text = environment.get("TF_CONFIG", "").strip()
    if not text:
        return None
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ClusterError(
            f"Expected JSON in TF_CONFIG, received {text!r}: {error.msg} at character {error.pos}. Write {_EXAMPLE}."
        ) from error
    if not isinstance(config, dict):
        raise _malformed("TF_CONFIG", "an object with cluster and task", config)
    if not config.get("cluster"):
        return None  # Some platforms set TF_CONFIG on single machines, without a cluster.
    jobs = _jobs(config["cluster"])
    try:
        cluster = Cluster(tuple(jobs["chief"] + jobs["worker"]), _index(config.get("task"), jobs))
    except ClusterError as error:
        raise ClusterError(f"TF_CONFIG's cluster: {error}") from error
    # A cluster of one is training alone, which needs no rendezvous and no collectives.
    return cluster if len(cluster.workers) > 1 else None


def read_one_program(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """Return the machines of a single program, as `kparallel run --one-program` sets them, or None.

    Worker 0 runs the script, and the devices of all other workers are devices of its. The variable is not `TF_CONFIG`,
    since to TensorFlow and Keras the script is a program on one machine.

    Args:
        environment: The environment variables. Default: those of this process.

    Example:
        >>> read_one_program({ONE_PROGRAM: Cluster(("a:1", "b:1"), 0).to_tf_config()})
        Cluster(workers=('a:1', 'b:1'), index=0)
    """
    text = environment.get(ONE_PROGRAM)
    return read_cluster({"TF_CONFIG": text}) if text else None


def worker_count() -> int:
    """Return the number of workers; 1 without a cluster."""
    cluster = read_cluster()
    return 1 if cluster is None else len(cluster.workers)


def _jobs(cluster: Any) -> dict[str, list[str]]:
    if not isinstance(cluster, dict):
        raise _malformed("cluster", 'an object such as {"worker": ["host:port", ...]}', cluster)
    jobs: dict[str, list[str]] = {"chief": [], "worker": []}
    for given, addresses in cluster.items():
        name = "chief" if given == "master" else given  # As SageMaker and old versions of TensorFlow call it.
        # An empty list asks for nothing, so it is no reason to refuse.
        if name in _REFUSED and not addresses:
            continue
        _check_type(f"cluster.{name}", name)
        if not isinstance(addresses, list) or not all(isinstance(each, str) for each in addresses):
            raise _malformed(f"cluster.{name}", 'a list of "host:port"', addresses)
        jobs[name] = addresses
    if len(jobs["chief"]) > 1:
        raise _malformed("cluster.chief", "one address", jobs["chief"])
    return jobs


def _index(task: Any, jobs: dict[str, list[str]]) -> int:
    if not isinstance(task, dict) or "type" not in task or "index" not in task:
        raise _malformed("task", 'this worker\'s {"type": "worker", "index": number}', task)
    kind, index = task["type"], task["index"]
    kind = "chief" if kind == "master" else kind
    _check_type("task.type", kind)
    # Launchers that fill in a template write the index as text.
    if isinstance(index, str) and index.isdecimal():
        index = int(index)
    # `True` is an `int` in Python.
    if not isinstance(index, int) or isinstance(index, bool):
        raise _malformed("task.index", "a whole number", index)
    if not 0 <= index < len(jobs[kind]):
        raise _malformed("task.index", f"one of the {len(jobs[kind])} addresses in cluster.{kind}", index)
    # chief: [a]   worker: [b, c]   ─►   workers (a, b, c): the worker of index 1 in its job is worker 2
    return index + (len(jobs["chief"]) if kind == "worker" else 0)


def _check_type(field: str, kind: Any) -> None:
    if kind in ("chief", "worker"):
        return
    way_out = "TF_CONFIG names workers by these words"
    if isinstance(kind, str):
        way_out = _REFUSED.get(kind, way_out)
    raise ClusterError(f"Expected chief or worker in TF_CONFIG's {field}, received {kind!r}: {way_out}.")


def _malformed(field: str, expected: str, received: Any) -> ClusterError:
    return ClusterError(f"Expected {expected} in TF_CONFIG's {field}, received {received!r}. Write {_EXAMPLE}.")
