"""The planner's view of a model, against a reading of its own."""

import random

from kparallel.planning.units import Unit, cut_points, incoming_bytes


def graph(source):
    units = []
    for index in range(source.randint(1, 9)):
        reads = tuple(sorted(source.sample(range(index), min(index, source.randint(0, 3)))))
        units.append(Unit(str(index), 1.0, 0, 0, 0, source.randint(1, 50), reads, ()))
    return units


def test_incoming_bytes_count_each_output_once():
    source = random.Random(0)
    for _ in range(50):
        units = graph(source)
        found = incoming_bytes(units)
        for start in range(len(units)):
            for end in range(start, len(units) + 1):
                read = {index for unit in units[start:end] for index in unit.reads if index < start}
                assert found[start, end] == sum(units[index].output_bytes_per_row for index in read), (start, end)


def test_no_cut_falls_between_calls_that_change_one_state():
    units = [Unit(str(i), 1.0, 0, 0, 0, 1, (), (), stays_with={2: 0, 5: 4}.get(i)) for i in range(6)]
    assert cut_points(units).tolist() == [True, False, False, True, True, False, True]
