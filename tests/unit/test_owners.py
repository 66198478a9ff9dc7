"""Which replica owns which weight."""

import numpy as np

from kparallel.engine.owners import Load, share_out

PAIR = ("CPU:0", "CPU:1")


def test_no_device_holds_more_than_an_equal_part_and_the_largest():
    generator = np.random.default_rng(0)
    for _ in range(50):
        sizes = generator.integers(1, 1000, generator.integers(1, 12)).tolist()
        owners = share_out([Load(size, size, PAIR) for size in sizes])
        held = [sum(size for size, owner in zip(sizes, owners, strict=True) if owner == each) for each in (0, 1)]
        assert max(held) <= sum(sizes) / 2 + max(sizes)


def test_columns_are_weighed_by_their_devices():
    """A device that two columns share holds what both give it."""
    loads = [Load(80, 80, PAIR), Load(10, 10, ("CPU:2", "CPU:0"))]
    assert share_out(loads) == [0, 0]
    assert share_out([Load(80, 80, PAIR), Load(10, 10, ("CPU:0", "CPU:2"))]) == [0, 1]


def test_weights_decide_where_there_are_no_slots():
    assert share_out([Load(0, size, PAIR) for size in (8, 8, 16)]) == [1, 1, 0]


def test_equal_loads_have_the_same_owners_each_time():
    loads = [Load(4, 4, PAIR)] * 5
    assert share_out(loads) == share_out(loads) == [0, 1, 0, 1, 0]
