"""Which forecast configurations kparallel runs, and how."""

import pytest

from kparallel.forecast.configuration import Configuration
from kparallel.forecast.hardware_file import read_hardware
from kparallel.forecast.runnable import needs_one_program, unsupported

TWO = read_hardware("8xA100").with_devices(16)


@pytest.mark.parametrize(
    ("configuration", "one_program", "why_not"),
    [
        (Configuration(16, 1, 1, 1), False, ""),
        (Configuration(2, 8, 8, 32), False, ""),  # A replica on each machine.
        (Configuration(1, 16, 16, 64), True, ""),
        (Configuration(8, 2, 2, 4, neighbors="replicas"), True, ""),  # A column on each machine.
        (Configuration(8, 2, 2, 4, neighbors="replicas", shard="weights"), True, "one program"),
        (Configuration(16, 1, 1, 1, shard="weights"), False, ""),
        (Configuration(16, 1, 1, 2, shard="weights"), False, ""),
    ],
)
def test_workers_have_whole_replicas_and_one_program_whole_columns(configuration, one_program, why_not):
    assert needs_one_program(configuration, TWO) is one_program
    found = unsupported(configuration, TWO)
    assert why_not in found and bool(found) is bool(why_not)


def test_neither_rows_nor_columns_on_one_machine_cannot_be_run():
    assert "and so do the replicas of a stage" in unsupported(Configuration(2, 16, 16, 64), TWO.with_devices(32))
