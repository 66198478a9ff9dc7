"""The cluster that a scheduler's variables name: Kubernetes, Vertex AI, SageMaker, Slurm, Open MPI and PMIx."""

import json
import re
import zlib
from collections.abc import Mapping, Sequence

from kparallel.cluster import Cluster, read_cluster
from kparallel.errors import ClusterError

__all__: list[str] = []

_PORT = 2222


def scheduled_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """Return the cluster that a scheduler started this process for, or None.

    Read are, in this order: `TF_CONFIG`, as Vertex AI and Kubeflow's TFJob set it; `JOB_COMPLETION_INDEX` of an
    indexed Job of Kubernetes, also in a JobSet, with `KPARALLEL_WORKERS` and `KPARALLEL_SERVICE` from the manifest;
    `SM_HOSTS` and `SM_CURRENT_HOST` of SageMaker; `SLURM_*`, as `srun` sets them; `OMPI_COMM_WORLD_*` of Open MPI's
    `mpirun`, with `KPARALLEL_HOSTS` where there are several hosts, which it does not tell; `PMIX_RANK` of another
    launcher that speaks PMIx, as `prterun`, with `KPARALLEL_WORKERS` too, as it does not tell how many there are.

    Args:
        environment: Environment variables.

    Raises:
        ClusterError: A variable is malformed, or one is missing.

    Example:
        >>> scheduled_cluster({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "n[7-8]",
        ...                    "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_JOB_ID": "40"})
        Cluster(workers=('n7:20040', 'n8:20040'), index=1)
    """
    read = {
        "TF_CONFIG": read_cluster,
        "JOB_COMPLETION_INDEX": _kubernetes,
        "SM_HOSTS": _sagemaker,
        "SLURM_PROCID": _slurm,
        "OMPI_COMM_WORLD_RANK": _open_mpi,
        "PMIX_RANK": _pmix,
    }.get(scheduler_variable(environment))
    return None if read is None else read(environment)


def scheduler_variable(environment: Mapping[str, str]) -> str:
    """Return the variable by which a scheduler tells a process which one it is, or the empty text.

    Example:
        >>> scheduler_variable({"OMPI_COMM_WORLD_RANK": "1", "PMIX_RANK": "1"})
        'OMPI_COMM_WORLD_RANK'
    """
    if environment.get("TF_CONFIG"):
        return "TF_CONFIG"
    if "JOB_COMPLETION_INDEX" in environment and "KPARALLEL_WORKERS" in environment:
        return "JOB_COMPLETION_INDEX"
    if "SM_HOSTS" in environment:
        return "SM_HOSTS"
    # A batch script itself has SLURM_PROCID 0, but is no step: only srun starts one process for each task.
    if "SLURM_PROCID" in environment and "SLURM_STEP_NODELIST" in environment:
        return "SLURM_PROCID"
    return next((name for name in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK") if name in environment), "")


def hosts_cluster(hosts: str, index: int | None) -> Cluster:
    """Return the cluster of addresses written out by hand.

    Args:
        hosts: `host:port` of each worker, separated by commas; port 2222 where there is none.
        index: This worker's index.

    Raises:
        ClusterError: An address is malformed or named twice, or the index is missing or out of range.

    Example:
        >>> hosts_cluster("a,b:3000", 1)
        Cluster(workers=('a:2222', 'b:3000'), index=1)
    """
    names = [each.strip() for each in hosts.split(",")]
    if index is None:
        raise ClusterError(f"Expected --index with --hosts: which of the {len(names)} hosts is this one, from 0?")
    return Cluster(tuple(each if ":" in each else f"{each}:{_PORT}" for each in names), index)


def _kubernetes(environment: Mapping[str, str]) -> Cluster | None:
    index = _number(environment, "JOB_COMPLETION_INDEX")
    workers = _number(environment, "KPARALLEL_WORKERS")
    port = _number(environment, "KPARALLEL_PORT", _PORT)
    host, service = environment.get("HOSTNAME", ""), environment.get("KPARALLEL_SERVICE", "")
    if not service:
        raise ClusterError(
            "Expected KPARALLEL_SERVICE to name the Job's headless service, as the pods' subdomain does, received "
            "nothing. Set it in the Job's manifest beside KPARALLEL_WORKERS."
        )
    # The pods of an indexed Job are called job-0, job-1, ..., and are reached as job-0.service.
    job, _, last = host.rpartition("-")
    if not job or last != str(index):
        raise ClusterError(
            f"Expected HOSTNAME to be the Job's name and {index}, as in 'train-{index}', received {host!r}. Set the "
            "Job's completionMode to Indexed."
        )
    cluster = Cluster(tuple(f"{job}-{each}.{service}:{port}" for each in range(workers)), index)
    return cluster if workers > 1 else None


def _sagemaker(environment: Mapping[str, str]) -> Cluster | None:
    own, text = environment.get("SM_CURRENT_HOST", ""), environment["SM_HOSTS"]
    try:
        hosts = json.loads(text)
    except json.JSONDecodeError:
        hosts = None
    if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts) or own not in hosts:
        raise ClusterError(
            f"Expected SM_HOSTS to be a JSON list of hosts, with SM_CURRENT_HOST among them, received {text!r} and "
            f"{own!r}."
        )
    if len(hosts) == 1:
        return None
    port = _number(environment, "KPARALLEL_PORT", _PORT)
    return Cluster(tuple(f"{host}:{port}" for host in hosts), hosts.index(own))


def _open_mpi(environment: Mapping[str, str]) -> Cluster | None:
    index = _number(environment, "OMPI_COMM_WORLD_RANK")
    workers, local = (_number(environment, f"OMPI_COMM_WORLD_{name}SIZE") for name in ("", "LOCAL_"))
    named = _named_hosts(environment) or (["127.0.0.1"] if local == workers else [])
    job = environment.get("PMIX_NAMESPACE") or environment.get("OMPI_MCA_ess_base_jobid") or ""
    return None if workers == 1 else _processes_on(named, index, workers, local, job, environment)


def _pmix(environment: Mapping[str, str]) -> Cluster | None:
    index = _number(environment, "PMIX_RANK")
    if "KPARALLEL_WORKERS" not in environment:
        if index == 0:  # Of one process perhaps. If there are others, these raise.
            return None
        raise ClusterError(
            f"Expected KPARALLEL_WORKERS to say how many processes there are, as PMIX_RANK is {index} and no variable "
            "of PMIx says it, received nothing. Set it for all of them, and KPARALLEL_HOSTS for several hosts."
        )
    workers, named = _number(environment, "KPARALLEL_WORKERS"), _named_hosts(environment) or ["127.0.0.1"]
    job = environment.get("PMIX_NAMESPACE", "")
    return None if workers == 1 else _processes_on(named, index, workers, workers // len(named), job, environment)


def _named_hosts(environment: Mapping[str, str]) -> list[str]:
    return [host.strip() for host in environment.get("KPARALLEL_HOSTS", "").split(",") if host.strip()]


def _processes_on(
    hosts: Sequence[str], index: int, workers: int, local: int, job: str, environment: Mapping[str, str]
) -> Cluster:
    """Return one worker for each process, host after host, on a port that is a function of the job.

    Args:
        hosts: As `KPARALLEL_HOSTS` names them, in the launcher's order.
        index: Of this process.
        workers: How many processes there are.
        local: How many there are on each host.
        job: What is the same for all of them and differs from job to job.
        environment: Environment variables.
    """
    if len(hosts) * local != workers:
        raise ClusterError(
            f"Expected KPARALLEL_HOSTS to name the hosts of {workers} processes, {local} on each, in mpirun's order, "
            f"received {environment.get('KPARALLEL_HOSTS', '')!r}. Write mpirun --map-by slot -x KPARALLEL_HOSTS=a,b."
        )
    first = _number(environment, "KPARALLEL_PORT", 20000 + zlib.crc32(job.encode()) % 10000)
    return Cluster(tuple(f"{host}:{first + place}" for host in hosts for place in range(local)), index)


def _slurm(environment: Mapping[str, str]) -> Cluster | None:
    """Return one worker for each task, on a port that is a function of the job and the task's place on its node."""
    index = _number(environment, "SLURM_PROCID")
    step = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS", "1")
    if step == "1":
        return None
    nodes = expand_nodes(environment["SLURM_STEP_NODELIST"])
    tasks = _tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", f"1(x{len(nodes)})"))
    if len(tasks) != len(nodes):
        raise ClusterError(
            f"Expected SLURM_STEP_TASKS_PER_NODE to count {len(nodes)} nodes, received "
            f"{environment.get('SLURM_STEP_TASKS_PER_NODE')!r} for {environment['SLURM_STEP_NODELIST']!r}."
        )
    if environment.get("SLURM_DISTRIBUTION", "block").split(":")[0].split(",")[0] not in ("block", "plane"):
        raise ClusterError(
            f"Expected Slurm to fill node after node, received SLURM_DISTRIBUTION="
            f"{environment['SLURM_DISTRIBUTION']!r}. Write srun --distribution=block."
        )
    # All workers compute the same port from the job's number, and two jobs on one node seldom the same.
    first = _number(environment, "KPARALLEL_PORT", 20000 + _number(environment, "SLURM_JOB_ID", 0) % 10000)
    addresses = [f"{node}:{first + place}" for node, count in zip(nodes, tasks, strict=True) for place in range(count)]
    return Cluster(tuple(addresses), index)


def expand_nodes(text: str) -> list[str]:
    """Return the nodes of a Slurm node list.

    Example:
        >>> expand_nodes("gpu[08-10,12],login1")
        ['gpu08', 'gpu09', 'gpu10', 'gpu12', 'login1']
    """
    nodes: list[str] = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        # Commas inside brackets belong to a part: gpu[08-10,12],login1 has two parts.
        nodes += _expand(part)
    return nodes


def _expand(part: str) -> Sequence[str]:
    found = re.match(r"([^\[]*)\[([^\]]*)\](.*)", part)
    if found is None:
        return [part]
    head, inside, tail = found.groups()
    names = []
    for piece in inside.split(","):
        low, _, high = piece.partition("-")
        for number in range(int(low), int(high or low) + 1):
            # As many digits as the lower bound has: gpu[08-10] is gpu08, gpu09, gpu10.
            names.append(f"{head}{number:0{len(low)}d}")
    return [name + end for name in names for end in _expand(tail)]


def _tasks_per_node(text: str) -> list[int]:
    tasks: list[int] = []
    for piece in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", piece.strip())
        if found is None:
            raise ClusterError(f"Expected SLURM_STEP_TASKS_PER_NODE such as '2(x3),1', received {text!r}.")
        tasks += [int(found[1])] * int(found[2] or 1)
    return tasks


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise ClusterError(f"Expected a whole number in {name}, received {text!r}.")
    return int(text)
