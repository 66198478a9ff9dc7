"""`kparallel run -n MIN:MAX` where a scheduler starts a launcher for each worker: what each launcher is told."""

import json

import pytest
from click.testing import CliRunner

from kparallel.launcher import cli
from kparallel.launcher.gang import Ending
from kparallel.launcher.sizes import Sizes

POD = {"JOB_COMPLETION_INDEX": "1", "KPARALLEL_WORKERS": "2", "KPARALLEL_SERVICE": "digits"}
SIZE = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
# Of the second of two processes, and the addresses that it knows by them.
SCHEDULERS = {
    "Slurm": (
        {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "n[7-8]", "SLURM_JOB_ID": "40"},
        ("n7:20040", "n8:20040"),
    ),
    "an indexed Job": ({**POD, "HOSTNAME": "train-1"}, ("train-0.digits:2222", "train-1.digits:2222")),
    "a JobSet": ({**POD, "HOSTNAME": "train-w-0-1"}, ("train-w-0-0.digits:2222", "train-w-0-1.digits:2222")),
    "Open MPI": (
        {"OMPI_COMM_WORLD_RANK": "1", **SIZE, "KPARALLEL_PORT": "3000"},
        ("127.0.0.1:3000", "127.0.0.1:3001"),
    ),
    "PMIx": (
        {"PMIX_RANK": "1", "KPARALLEL_WORKERS": "2", "KPARALLEL_HOSTS": "a,b", "KPARALLEL_PORT": "3000"},
        ("a:3000", "b:3000"),
    ),
    "SageMaker": ({"SM_HOSTS": '["algo-1", "algo-2"]', "SM_CURRENT_HOST": "algo-2"}, ("algo-1:2222", "algo-2:2222")),
    "Vertex AI": (
        {
            "TF_CONFIG": json.dumps(
                {"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "worker", "index": 0}}
            )
        },
        ("a:1", "b:1"),
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_schedulers_processes_are_the_hosts_of_an_elastic_run(name, monkeypatch):
    environment, addresses = SCHEDULERS[name]
    told = []

    def run_over_hosts(hosts, make, say):
        two, one = ({"workers": addresses[:count], "index": 0, "gangs": 3} for count in (2, 1))
        told.append((hosts, [make(start, lambda message: False) for start in (two, one)]))
        return Ending(0)

    monkeypatch.setattr(cli, "run_over_hosts", run_over_hosts)
    done = CliRunner().invoke(cli.main, ["run", "-n", "1:2", "--wait", "7", __file__], env=environment)
    assert done.exit_code == 0, done.output
    ((hosts, (two, one)),) = told
    assert (hosts.addresses, hosts.index, hosts.sizes, hosts.wait) == (addresses, 1, Sizes(1, 2), 7)
    assert json.loads(two.environments[0]["TF_CONFIG"])["cluster"]["worker"] == list(addresses)
    assert two.environments[0]["KPARALLEL_ELASTIC"] == "1:2" and two.environments[0]["KPARALLEL_RESTARTS"] == "3"
    assert "TF_CONFIG" not in one.environments[0]  # The scheduler's own would name workers that are lost.


@pytest.mark.parametrize(("options", "seconds"), [((), 25.0), (("--grace", "7.5"), 7.5)])
def test_workers_have_a_grace_below_that_of_kubernetes(options, seconds, monkeypatch):
    launches = []
    monkeypatch.setattr(cli, "run_gang", lambda launch: launches.append(launch) or Ending(0))
    done = CliRunner().invoke(cli.main, ["run", "-n", "2", *options, __file__])
    assert done.exit_code == 0, done.output
    assert [launch.grace for launch in launches] == [seconds]


def test_a_grace_is_a_number_of_seconds():
    done = CliRunner().invoke(cli.main, ["run", "-n", "2", "--grace", "soon", __file__])
    assert done.exit_code == 2 and "--grace" in done.output
