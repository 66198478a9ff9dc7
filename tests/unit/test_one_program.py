"""The environments of one program over several machines, and what the launcher refuses."""

import pytest
from click.testing import CliRunner

from kparallel.cluster import ONE_PROGRAM, Cluster, read_cluster, read_one_program
from kparallel.errors import ClusterError
from kparallel.launcher import cli
from kparallel.launcher.cli import main
from kparallel.launcher.gang import Ending
from kparallel.launcher.one_program import check_one_program, one_program_environments
from kparallel.launcher.sizes import Sizes

MACHINES = Cluster(("a:1", "b:1"), 1)


def test_the_machines_have_a_variable_of_their_own():
    made = one_program_environments([{"TF_CONFIG": MACHINES.to_tf_config(), "HOME": "/root"}], {})
    assert made == [{"HOME": "/root", "TF_CPP_MIN_LOG_LEVEL": "2", ONE_PROGRAM: MACHINES.to_tf_config()}]
    assert read_one_program(made[0]) == MACHINES and read_cluster(made[0]) is None


def test_other_processes_are_no_program_over_machines():
    assert read_one_program({}) is None and read_one_program({"TF_CONFIG": MACHINES.to_tf_config()}) is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: check_one_program({"TF_CONFIG": "{}"}, None), "Expected no TF_CONFIG .* Unset it"),
        (lambda: check_one_program({}, Sizes(2, 4)), "-n 2:4. Write -n 4"),
        (lambda: one_program_environments([{}], {}), "received one. Say -n 2"),
    ],
)
def test_what_one_program_does_not_go_together_with(call, words):
    with pytest.raises(ClusterError, match=words):
        call()


@pytest.mark.parametrize(
    ("options", "variable", "words"),
    [
        (["-n", "1"], "", "Say -n 2 or more"),
        ([], "", "Say -n 2 or more"),
        (["-n", "1:2"], "", "fixed number of workers"),
        (["-n", "2"], MACHINES.to_tf_config(), "Unset it"),
    ],
)
def test_the_command_says_what_it_refuses(options, variable, words, monkeypatch, tmp_path):
    monkeypatch.setenv("TF_CONFIG", variable)
    script = tmp_path / "script.py"
    script.touch()
    result = CliRunner().invoke(main, ["run", "--one-program", *options, str(script)])
    assert result.exit_code == 1 and words in result.output, result.output


SLURM = {
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NODELIST": "n[7-8]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_JOB_ID": "40",
}
JOB = {"JOB_COMPLETION_INDEX": "1", "KPARALLEL_WORKERS": "2", "KPARALLEL_SERVICE": "train", "HOSTNAME": "train-1"}


@pytest.mark.parametrize(
    ("options", "variables", "workers"),
    [
        ((), SLURM, ("n7:20040", "n8:20040")),
        (("--hosts", "a,b:3000", "--index", "1"), {}, ("a:2222", "b:3000")),
        ((), JOB, ("train-0.train:2222", "train-1.train:2222")),
    ],
)
def test_the_machines_are_those_of_the_scheduler(options, variables, workers, monkeypatch, tmp_path):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    started = []
    monkeypatch.setattr(cli, "run_gang", lambda launch: started.append(launch) or Ending(0))
    script = tmp_path / "script.py"
    script.touch()
    result = CliRunner().invoke(main, ["run", "--one-program", *options, str(script)])
    assert result.exit_code == 0, result.output
    ((environment,),) = [launch.environments for launch in started]
    assert read_one_program(environment) == Cluster(workers, 1) and "TF_CONFIG" not in environment
    assert environment["KPARALLEL_HEARTBEAT"] == "20.0"
