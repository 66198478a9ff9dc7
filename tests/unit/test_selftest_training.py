"""How `kparallel test` says whether training equals one device."""

import pytest

from kparallel.selftest.training import TOLERANCE, is_equal, result_text


@pytest.mark.parametrize(
    ("difference", "expected"), [(0.0, True), (TOLERANCE, True), (2 * TOLERANCE, False), (float("nan"), False)]
)
def test_rounding_is_equal_and_nan_is_not(difference, expected):
    assert is_equal(difference) is expected


def test_the_workers_that_differ_are_named_and_nan_is_the_largest_difference():
    assert result_text([1e-16, 3e-16]) == "training: equal to one device, at most 3e-16 from it in float64"
    assert result_text([0.5, 1e-16, 0.25]).startswith("training: WRONG on worker 0, worker 2: 0.5 from one device")
    assert "worker 0, worker 1: nan from" in result_text([0.5, float("nan")])
