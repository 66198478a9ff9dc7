"""The program of each worker of `kparallel test`."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kparallel
from kparallel.cluster import Cluster, read_cluster
from kparallel.comm.group import SingleWorker, TFWorkerGroup, WorkerGroup
from kparallel.comm.join import cluster_departures, cluster_strategy
from kparallel.devices import local_devices
from kparallel.errors import PlanError
from kparallel.forecast.hardware_file import hardware_text
from kparallel.selftest.devices import device_links
from kparallel.selftest.hardware import Speed, combined, hosts_of, measure_speed
from kparallel.selftest.links import Link, table
from kparallel.selftest.training import difference_from_plain, is_equal, result_text
from kparallel.selftest.workers import worker_links

__all__: list[str] = []


def main(wrap: Callable[[Any], Any] = kparallel.wrap, write: str | None = None) -> int:
    """Test what this process is part of; the chief prints what was found.

    Args:
        wrap: Returns the wrapped model; `kparallel.wrap` by default.
        write: The cluster file that the chief is to write; default none.

    Returns:
        1 if a link is broken, or training does not equal one device, else 0.
    """
    cluster, strategy = read_cluster(), cluster_strategy()
    group: WorkerGroup = SingleWorker()
    if cluster is not None:
        group = TFWorkerGroup(strategy, len(cluster.workers), cluster.index, cluster_departures())
    devices = group.exchange("lists its devices", local_devices())
    _say(group, _heading(cluster, devices))
    links = device_links(local_devices()) if cluster is None else worker_links(cluster, group)
    _say(group, table(links) if links else "one device: there is no link to measure")
    differences = group.exchange("has compared with one device", difference_from_plain(wrap))
    _say(group, result_text(differences))
    failed = any(link.problem for link in links) or not all(map(is_equal, differences))
    if write is not None:
        failed = not _written(cluster, group, links, write) or failed
    _say(group, "failed" if failed else "passed")
    group.exchange("ends", None)  # A launcher ends the others after the first that fails: the chief has printed by now.
    return int(failed)


def _written(cluster: Cluster | None, group: WorkerGroup, links: Sequence[Link], path: str) -> bool:
    """Measure the devices of all workers at once; the chief writes the cluster file, and tells whether it could."""
    hosts = hosts_of(cluster)
    own = hosts[0 if cluster is None else cluster.index]
    group.exchange("measures its devices", None)  # A barrier: all workers of a host start at the same time.
    measured = asdict(measure_speed(local_devices(), hosts.count(own)))
    speeds = [Speed(**speed) for speed in group.exchange("has measured its devices", measured)]
    try:
        hardware = combined(speeds, links, hosts)
    except PlanError as error:
        _say(group, f"no cluster file: {error}")
        return False
    if group.is_chief:
        comments = (f"Measured by kparallel {kparallel.__version__} test --write, {date.today()}.",)
        Path(path).write_text(hardware_text(hardware, comments))
    _say(group, f"wrote {path}")
    return True


def _heading(cluster: Cluster | None, devices: Sequence[Sequence[str]]) -> str:
    """Say what is tested: the versions, and the devices of each worker."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("tensorflow", "keras"))
    lines = [f"kparallel {kparallel.__version__}, {versions}"]
    if cluster is None:
        return "\n".join([*lines, f"devices: {', '.join(devices[0])}"])
    of_each = zip(cluster.workers, devices, strict=True)
    lines += [f"worker {index}: {address}, {', '.join(names)}" for index, (address, names) in enumerate(of_each)]
    return "\n".join(lines)


def _say(group: WorkerGroup, text: str) -> None:
    if group.is_chief:
        print(text, flush=True)


if __name__ == "__main__":
    (path,) = sys.argv[1:] or (None,)
    sys.exit(main(write=path))
