"""What the options of `kparallel run` come to: the workers that a launcher starts, and their environments."""

import os
from collections.abc import Sequence
from typing import Any

import click

from kparallel.cluster import Cluster
from kparallel.launcher.environment import hosts_cluster, scheduled_cluster, scheduler_variable
from kparallel.launcher.hosts import Hosts
from kparallel.launcher.local import local_environments
from kparallel.launcher.one_program import one_program_environments
from kparallel.launcher.sizes import Sizes

__all__: list[str] = []

_HEARTBEAT = 60.0
_HEARTBEAT_ONE_PROGRAM = 20.0  # So that the program has ended within 30 s of a loss.


def elastic_hosts(
    workers: Sizes | None,
    hosts: str | None,
    index: int | None,
    restarts: int,
    wait: float,
    timeout: float,
    heartbeat: float | None,
    **_: Any,
) -> Hosts | None:
    """Return what a launcher of a run over several machines is told; None where their number may not change.

    Args:
        workers, hosts, index, restarts, wait, timeout, heartbeat: The options of `kparallel run`.

    Raises:
        UsageError: The number of machines is not the largest of `workers`.
        ClusterError: The scheduler's variables, or the hosts, do not make a cluster.
    """
    if workers is None or not workers.is_elastic or (hosts is None and index is not None):
        return None
    cluster = hosts_cluster(hosts, index) if hosts is not None else scheduled_cluster(os.environ)
    if cluster is None:  # All workers are this machine's.
        return None
    if len(cluster.workers) != workers.most:
        who = "--hosts names" if hosts is not None else f"{scheduler_variable(os.environ)} tells of a job of"
        raise click.UsageError(
            f"Expected -n MIN:{len(cluster.workers)}, as {who} {len(cluster.workers)}, received "
            f"-n {workers.least}:{workers.most}."
        )
    token = os.environ.get("KPARALLEL_TOKEN", "")
    return Hosts(cluster.workers, cluster.index, workers, restarts, wait, timeout, heartbeat or _HEARTBEAT, token)


def workers_of(
    places: Sequence[int],
    workers: Sizes | None,
    devices_per_worker: int | None,
    hosts: str | None,
    index: int | None,
    one_program: bool = False,
    **options: Any,
) -> tuple[list[dict[str, str]], list[int]]:
    """Return the environment and the index of each worker that this launcher starts.

    Args:
        places: The indices of the workers that are to run on this machine.
        workers, devices_per_worker, hosts, index, one_program: The options of `kparallel run`.
        options: Those of `common_environment`.

    Raises:
        UsageError: Options contradict one another, or a scheduler starts each worker by itself.
        ClusterError: The scheduler's variables, or the hosts, do not make a cluster.
    """
    environment = common_environment(
        workers=workers, devices_per_worker=devices_per_worker, one_program=one_program, **options
    )
    if hosts is not None and workers is not None:
        raise click.UsageError("Give --hosts for several machines or -n for this one, not both, but for -n MIN:MAX.")
    if index is not None and hosts is None:
        raise click.UsageError("--index says which of --hosts this machine is; give --hosts too.")
    cluster = hosts_cluster(hosts, index) if hosts is not None else scheduled_cluster(environment)
    if workers is not None:
        _check_alone(cluster, workers, scheduler_variable(environment))
        own = local_environments(environment, places, workers.most, devices_per_worker)
        return one_program_environments(own, os.environ) if one_program else own, list(range(len(places)))
    # What the launcher's own environment says is not this worker's cluster.
    environment.pop("TF_CONFIG", None)
    own = [environment if cluster is None else {**environment, "TF_CONFIG": cluster.to_tf_config()}]
    return one_program_environments(own, os.environ) if one_program else own, [0 if cluster is None else cluster.index]


def _check_alone(cluster: Cluster | None, workers: Sizes, variable: str) -> None:
    """Raise where each process of a scheduler's would start a run of its own, all with the same files."""
    if cluster is not None:
        count = len(cluster.workers)
        raise click.UsageError(
            f"Expected no -n, as {variable} makes this process {cluster.index} of {count}, each of them a worker, "
            f"received -n {workers.most}. Leave it out, or write -n MIN:{count}. For a run of its own in each process "
            f"remove {variable} from the environment."
        )


def common_environment(
    gangs: int,
    workers: Sizes | None,
    devices_per_worker: int | None,
    timeout: float,
    heartbeat: float | None,
    one_program: bool = False,
    **_: Any,
) -> dict[str, str]:
    """Return what the environments of all workers have in common.

    Args:
        gangs: How many gangs have been started before.
        workers, devices_per_worker, timeout, heartbeat, one_program: The options of `kparallel run`.
    """
    heartbeat = heartbeat or (_HEARTBEAT_ONE_PROGRAM if one_program else _HEARTBEAT)
    environment = {
        **os.environ,
        "KPARALLEL_TIMEOUT": str(timeout),
        "KPARALLEL_HEARTBEAT": str(heartbeat),
        "KPARALLEL_RESTARTS": str(gangs),
    }
    if workers is not None and workers.is_elastic:
        environment["KPARALLEL_ELASTIC"] = f"{workers.least}:{workers.most}"
    if devices_per_worker:
        environment |= {"KPARALLEL_DEVICES_PER_WORKER": str(devices_per_worker), "CUDA_VISIBLE_DEVICES": "-1"}
    return environment
