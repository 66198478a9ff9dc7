"""The cut is exact: as good as the best of all cuts, and among these the one that sends least."""

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from kparallel.errors import PlanError
from kparallel.planning.cut import most_stages, partition
from kparallel.planning.units import Unit, incoming_bytes


def unit(name, reads=(), output=8, flops=1.0, weights=0, kept=8):
    return Unit(name, flops, weights // 4, weights, kept, output, tuple(reads), (name,))


def ranges(starts, number):
    return list(zip(starts, [*starts[1:], number], strict=True))


def every_cut(number, stages):
    for inner in itertools.combinations(range(1, number), stages - 1):
        yield (0, *inner)


def slowest(costs, starts):
    return max(sum(costs[start:end]) for start, end in ranges(starts, len(costs)))


def sent(units, starts):
    """Count each output once for every later group that reads it."""
    total = 0
    for start, end in ranges(starts, len(units)):
        total += sum(units[i].output_bytes_per_row for i in {r for u in units[start:end] for r in u.reads if r < start})
    return total


def graph(number, source):
    """A random graph with skip connections."""
    return [
        unit(f"u{i}", {i - 1, source.randrange(i)} if i else (), output=source.choice([1, 4, 16, 64]))
        for i in range(number)
    ]


def test_as_good_as_the_best_of_all_cuts():
    source = random.Random(0)
    for _ in range(150):
        number = source.randint(2, 10)
        stages = source.randint(1, min(5, number))
        costs = [source.lognormvariate(0, 1) for _ in range(number)]
        best = min(slowest(costs, starts) for starts in every_cut(number, stages))
        assert slowest(costs, partition(costs, stages)) == pytest.approx(best, rel=1e-12)


def test_ties_go_to_the_cut_that_sends_least():
    source = random.Random(1)
    for _ in range(150):
        number = source.randint(3, 9)
        stages = source.randint(2, min(4, number))
        units, costs = graph(number, source), [source.choice([1, 1, 2]) for _ in range(number)]
        best = min((slowest(costs, starts), sent(units, starts)) for starts in every_cut(number, stages))
        found = partition(costs, stages, units)
        assert (slowest(costs, found), sent(units, found)) == best


def test_under_a_memory_limit():
    source = random.Random(2)
    impossible = 0
    for _ in range(150):
        number = source.randint(3, 8)
        stages = source.randint(2, min(4, number))
        costs = [source.lognormvariate(0, 1) for _ in range(number)]
        fits = np.array([[[source.random() < 0.6 for _ in range(number + 1)] for _ in range(number + 1)]] * stages)
        possible = [
            starts
            for starts in every_cut(number, stages)
            if all(fits[stage, a, b] for stage, (a, b) in enumerate(ranges(starts, number)))
        ]
        if possible:
            best = min(slowest(costs, starts) for starts in possible)
            found = partition(costs, stages, fits=fits)
            assert found in possible
            assert slowest(costs, found) == pytest.approx(best, rel=1e-12)
        else:
            impossible += 1
            with pytest.raises(PlanError, match="there is none"):
                partition(costs, stages, fits=fits)
    assert 0 < impossible < 150


def test_what_shares_a_state_stays_together():
    source = random.Random(5)
    kept = refused = 0
    for _ in range(200):
        number = source.randint(3, 9)
        stages = source.randint(2, min(4, number))
        costs = [source.choice([0, 1, 2, 3]) for _ in range(number)]
        firsts = [source.randrange(i) if i and source.random() < 0.3 else None for i in range(number)]
        units = [replace(u, stays_with=first) for u, first in zip(graph(number, source), firsts, strict=True)]
        possible = []
        for starts in every_cut(number, stages):
            together = not any(j is not None and j < s <= i for s in starts for i, j in enumerate(firsts))
            if together and all(any(costs[start:end]) for start, end in ranges(starts, number)):
                possible.append(starts)
        assert (most_stages(costs, units) >= stages) == bool(possible)
        if possible:
            best = min((slowest(costs, starts), sent(units, starts)) for starts in possible)
            found = partition(costs, stages, units)
            assert found in possible
            assert (slowest(costs, found), sent(units, found)) == best
            kept += found != partition(costs, stages)
        else:
            refused += 1
            with pytest.raises(PlanError, match="Expected at most"):
                partition(costs, stages, units)
    assert kept and refused


def test_a_layer_with_state_called_everywhere_cannot_be_cut():
    units = [unit("drop"), unit("dense", [0]), replace(unit("drop", [1]), stays_with=0)]
    with pytest.raises(PlanError, match=r"at most 1 stage, received 2: every call of \['drop'\].*layer of its own"):
        partition([1, 1, 1], 2, units)


def test_arriving_bytes_counts_as_by_hand():
    source = random.Random(3)
    for _ in range(30):
        units = graph(8, source)
        table = incoming_bytes(units)
        for start, end in itertools.combinations(range(9), 2):
            read = {r for u in units[start:end] for r in u.reads if r < start}
            assert table[start, end] == sum(units[i].output_bytes_per_row for i in read)


def test_no_stage_without_cost():
    costs = [0, 5, 0, 0, 1, 0]
    found = partition(costs, 2)
    assert all(sum(costs[start:end]) > 0 for start, end in ranges(found, 6))
    with pytest.raises(PlanError, match="at most 2 stages, received 3.*only waits. Use fewer"):
        partition(costs, 3)
    assert partition([0, 0], 1) == (0,)


def test_more_stages_than_units():
    with pytest.raises(PlanError, match="1 to 3 stages for a model of 3 calls, received 4"):
        partition([1, 1, 1], 4)
    with pytest.raises(PlanError, match="finite"):
        partition([1, float("nan")], 2)
