"""Schedules by their names."""

import pytest

from kparallel.errors import PlanError
from kparallel.schedule import (
    by_name,
    gpipe,
    interleaved,
    one_f_one_b,
)


def test_names():
    assert by_name("GPipe") is gpipe
    assert by_name("1f1b") is one_f_one_b
    assert by_name("interleaved", 2)(4, 4) == interleaved(2)(4, 4)
    with pytest.raises(PlanError, match="received '1f1'. Did you mean '1f1b'?"):
        by_name("1f1")
    with pytest.raises(PlanError, match="Did you mean 'interleaved'?"):
        by_name("interleave")
    with pytest.raises(PlanError, match="number of lanes"):
        by_name("interleaved")
    with pytest.raises(PlanError, match="multiple of the 2 devices in a row, received 3. Use 4 stages"):
        interleaved(2)(3, 4)
