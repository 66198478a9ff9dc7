"""What a report of a bug says, and what it must not say."""

import pytest

from kparallel.launcher.bug_report import bug_report


@pytest.mark.parametrize(
    "name", ["KPARALLEL_TOKEN", "TF_API_KEY", "SM_SECRET_NAME", "JOB_PASSWORD", "CUDA_CREDENTIALS"]
)
def test_secrets_are_left_out(name):
    text = bug_report({name: "hunter2", "TF_DETERMINISTIC_OPS": "1"})
    assert "hunter2" not in text and f"{name}" in text and "(set)" in text
    assert text.splitlines()[-1].split() in ([name, "(set)"], ["TF_DETERMINISTIC_OPS", "1"])


def test_variables_of_other_programs_are_left_out_and_a_broken_cluster_is_named():
    text = bug_report({"HOME": "/home/ann", "TF_CONFIG": "{"})
    assert "ann" not in text and "ClusterError" in text
