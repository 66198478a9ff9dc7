"""The memory of a stage, estimated."""

import numpy as np
import pytest

from kparallel.errors import PlanError
from kparallel.planning.memory import parse_bytes, stage_memory
from kparallel.schedule import in_flight, one_f_one_b


def test_sizes():
    assert [parse_bytes(size) for size in ("8GB", "8 GiB", "1.5kB", "3B", 7)] == [8e9, 8 * 2**30, 1500, 3, 7]
    for bad in ("8", "8 gigabytes", "", "0GB", 0, -1, None, True, "-1GB"):
        with pytest.raises(PlanError, match="Expected a size such as '8GB'"):
            parse_bytes(bad)


def test_memory_of_a_stage():
    for stages, microbatches in [(1, 1), (4, 8), (4, 2)]:
        for held in in_flight(one_f_one_b(stages, microbatches)):
            never = stage_memory(100, 50, 10, held)
            assert (never.total, never.activations) == (400 + held * 50, held * 50)
            assert stage_memory(100, 50, 10, held, "always").activations == held * 10 + 50
            assert stage_memory(100, 50, 10, held, "except_last").activations == held * 10 + 50 * min(held, 2)
    # Two of four microbatches wait for the gradients of their weights, with gradients as large as their activations.
    assert stage_memory(100, 50, 10, 4, deferred=2).activations == 4 * 50 + 2 * 50
    assert stage_memory(100, 50, 10, 4, "always", deferred=2).activations == 4 * 10 + 3 * 50 + 2 * 50
    assert stage_memory(100, 0, 0, 1, slots=0).total == 200
    assert stage_memory(100, 0, 0, 1, slots=2, frozen_bytes=60).total == 100 + 40 + 80


def test_owners_share_slots_but_for_the_largest_weights():
    assert stage_memory(100, 0, 0, 1, slots=2, owners=4).slots == 50
    assert stage_memory(100, 0, 0, 1, slots=2, owners=4, largest_bytes=30).slots == 60
    tables = stage_memory(np.array([100.0, 40.0]), 0, 0, 1, slots=2, owners=2, largest_bytes=np.array([30.0, 30.0]))
    assert tables.slots.tolist() == [100, 60]
