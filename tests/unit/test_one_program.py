"""The environments of one program over several machines, and what the launcher refuses."""

import pytest
from click.testing import CliRunner

from kparallel.cluster import ONE_PROGRAM, Cluster, read_cluster, read_one_program
from kparallel.errors import ClusterError
from kparallel.launcher.cli import main
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
