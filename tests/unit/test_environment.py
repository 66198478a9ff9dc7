"""Schedulers' environment variables, addresses by hand, and the division of GPUs."""

import pytest

from kparallel.cluster import Cluster
from kparallel.errors import ClusterError, DeviceError
from kparallel.launcher.environment import expand_nodes, hosts_cluster, scheduled_cluster
from kparallel.launcher.gpus import divide_gpus, visible_gpus
from kparallel.launcher.local import local_environments

SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_PROCID": "2",
    "SLURM_NTASKS": "3",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_NODELIST": "gpu[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
}
POD = {
    "JOB_COMPLETION_INDEX": "1",
    "HOSTNAME": "train-1",
    "KPARALLEL_WORKERS": "2",
    "KPARALLEL_SERVICE": "digits",
}
TFJOB = {
    "TF_CONFIG": '{"cluster": {"chief": ["c.ns.svc:2222"], "worker": ["w.ns.svc:2222"]}, '
    '"task": {"type": "worker", "index": 0}, "environment": "cloud"}'
}


# As Vertex AI's custom training sets it on the first worker.
VERTEX = {
    "TF_CONFIG": '{"cluster": {"chief": ["cmle-training-workerpool0-ab-0:2222"], "worker": '
    '["cmle-training-workerpool1-ab-0:2222", "cmle-training-workerpool1-ab-1:2222"]}, "task": {"type": "chief", '
    '"index": 0, "trial": ""}, "job": "{}", "environment": "cloud"}'
}
SAGEMAKER = {"SM_HOSTS": '["algo-1", "algo-2"]', "SM_CURRENT_HOST": "algo-2", "SM_NUM_GPUS": "0"}
MASTER = {
    "TF_CONFIG": '{"cluster": {"master": ["algo-1:2222"], "worker": ["algo-2:2222"]}, "environment": "cloud", '
    '"task": {"index": 0, "type": "master"}}'
}
MPI = {
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_NAMESPACE": "prterun-node-42@1",
}


def test_vertex_has_a_chief():
    cluster = scheduled_cluster(VERTEX)
    assert cluster.index == 0 and len(cluster.workers) == 3 and "workerpool0" in cluster.workers[0]


def test_sagemaker_names_its_hosts():
    assert scheduled_cluster(SAGEMAKER) == Cluster(("algo-1:2222", "algo-2:2222"), 1)
    assert scheduled_cluster({**SAGEMAKER, "KPARALLEL_PORT": "7777"}).address == "algo-2:7777"
    assert scheduled_cluster({"SM_HOSTS": '["algo-1"]', "SM_CURRENT_HOST": "algo-1"}) is None
    assert scheduled_cluster({**SAGEMAKER, **MASTER}) == Cluster(("algo-1:2222", "algo-2:2222"), 0)


def test_open_mpi_gives_each_process_a_port_of_its_own():
    here = {**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
    workers = scheduled_cluster(here).workers
    assert len(set(workers)) == 4 and all(worker.startswith("127.0.0.1:2") for worker in workers)
    assert scheduled_cluster({**here, "OMPI_COMM_WORLD_RANK": "0"}).workers == workers
    two = scheduled_cluster({**MPI, "KPARALLEL_HOSTS": "a, b", "KPARALLEL_PORT": "3000"})
    assert two == Cluster(("a:3000", "a:3001", "b:3000", "b:3001"), 2)
    assert scheduled_cluster({**MPI, "OMPI_COMM_WORLD_SIZE": "1"}) is None


def test_pmix_is_told_how_many_processes_there_are():
    process = {"PMIX_RANK": "2", "PMIX_NAMESPACE": "prterun-node-42@1", "KPARALLEL_WORKERS": "4"}
    assert scheduled_cluster(process) == scheduled_cluster({**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "4"})
    two = {**process, "KPARALLEL_HOSTS": "a,b", "KPARALLEL_PORT": "3000"}
    assert scheduled_cluster(two) == Cluster(("a:3000", "a:3001", "b:3000", "b:3001"), 2)
    assert scheduled_cluster({"PMIX_RANK": "0"}) is None
    assert scheduled_cluster({"PMIX_RANK": "0", "KPARALLEL_WORKERS": "1"}) is None
    # Slurm with PMIx sets both.
    assert scheduled_cluster({**SLURM, "PMIX_RANK": "2"}) == scheduled_cluster(SLURM)


def test_a_job_set_is_an_indexed_job():
    pod = {**POD, "HOSTNAME": "train-workers-0-1", "KPARALLEL_SERVICE": "train"}
    assert scheduled_cluster(pod) == Cluster(("train-workers-0-0.train:2222", "train-workers-0-1.train:2222"), 1)


def test_slurm_gives_each_task_a_port_of_its_own():
    workers = ("gpu1:23456", "gpu1:23457", "gpu2:23456")
    assert scheduled_cluster(SLURM) == Cluster(workers, 2)
    assert scheduled_cluster({**SLURM, "KPARALLEL_PORT": "3000"}).address == "gpu2:3000"
    assert scheduled_cluster({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_STEP_NUM_TASKS": "4"}).index == 2


def test_slurm_without_srun_or_with_one_task_is_no_cluster():
    batch = {name: SLURM[name] for name in ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_NTASKS")}
    assert scheduled_cluster(batch) is None
    assert scheduled_cluster({**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("a", ["a"]),
        ("a1,b-2", ["a1", "b-2"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("r[1-2]n[1,3]-ib,x", ["r1n1-ib", "r1n3-ib", "r2n1-ib", "r2n3-ib", "x"]),
    ],
)
def test_slurm_node_lists(text, nodes):
    assert expand_nodes(text) == nodes


def test_kubernetes():
    assert scheduled_cluster(POD) == Cluster(("train-0.digits:2222", "train-1.digits:2222"), 1)
    assert scheduled_cluster(TFJOB) == Cluster(("c.ns.svc:2222", "w.ns.svc:2222"), 1)
    assert scheduled_cluster({"JOB_COMPLETION_INDEX": "0", "HOSTNAME": "job-0"}) is None
    assert scheduled_cluster({}) is None


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ({**POD, "KPARALLEL_SERVICE": ""}, "headless service"),
        ({**POD, "HOSTNAME": "train-x7k"}, "completionMode"),
        ({**POD, "KPARALLEL_WORKERS": "two"}, "KPARALLEL_WORKERS, received 'two'"),
        ({**POD, "JOB_COMPLETION_INDEX": "2", "HOSTNAME": "train-2"}, "from 0 to 1, received 2"),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "3"}, "count 2 nodes"),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "x"}, "received 'x'"),
        ({**SAGEMAKER, "SM_HOSTS": "algo-1,algo-2"}, "a JSON list of hosts"),
        ({**SAGEMAKER, "SM_CURRENT_HOST": "algo-7"}, "'algo-7'"),
        (MPI, "KPARALLEL_HOSTS to name the hosts of 4 processes, 2 on each"),
        ({"PMIX_RANK": "1"}, "KPARALLEL_WORKERS to say how many processes"),
        ({"PMIX_RANK": "1", "KPARALLEL_WORKERS": "3", "KPARALLEL_HOSTS": "a,b"}, "the hosts of 3 processes, 1 on each"),
        ({**SLURM, "SLURM_DISTRIBUTION": "cyclic"}, "--distribution=block"),
    ],
)
def test_what_is_missing_or_malformed_is_named(environment, part):
    with pytest.raises(ClusterError, match=part):
        scheduled_cluster(environment)


def test_hosts_by_hand():
    assert hosts_cluster("a, b:3", 0) == Cluster(("a:2222", "b:3"), 0)
    with pytest.raises(ClusterError, match="--index"):
        hosts_cluster("a,b", None)
    with pytest.raises(ClusterError, match="'a:2222' for workers 0 and 1"):
        hosts_cluster("a,a", 0)


def test_gpus_are_counted_and_divided(tmp_path):
    for name in ("nvidia0", "nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == ["0", "2", "10"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3, GPU-ab,-1,4"}, tmp_path) == ["3", "GPU-ab"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == []
    assert divide_gpus(["0", "1", "2", "3"], 4) == [["0"], ["1"], ["2"], ["3"]]
    assert divide_gpus([], 2) == [[], []]
    with pytest.raises(DeviceError, match="divides the 3 GPUs"):
        divide_gpus(["0", "1", "2"], 2)


def test_local_workers_share_the_machine():
    first, second = local_environments({"CUDA_VISIBLE_DEVICES": "4,5", "HOME": "/h"}, [0, 1], 2, None)
    assert (first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]) == ("4", "5")
    assert first["HOME"] == "/h" and int(first["TF_NUM_INTRAOP_THREADS"]) >= 1
    clusters = [scheduled_cluster(environment) for environment in (first, second)]
    assert clusters[0].workers == clusters[1].workers and [each.index for each in clusters] == [0, 1]
    (alone,) = local_environments({"CUDA_VISIBLE_DEVICES": "4,5"}, [0], 1, 2)
    assert alone["CUDA_VISIBLE_DEVICES"] == "-1" and "TF_CONFIG" not in alone
