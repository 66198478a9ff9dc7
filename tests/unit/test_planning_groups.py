"""The layer groups of a plan."""

import pytest

from kparallel.errors import PlanError
from kparallel.planning.groups import layer_groups
from kparallel.planning.units import Unit


def unit(name, flops, parameters, reads=(), layers=None, frozen=0):
    layers = (name,) if layers is None else layers
    return Unit(name, flops, parameters, 4 * parameters, 10, 7, reads, layers, None, frozen, 4 * parameters)


UNITS = [
    unit("a", 30, 5),
    unit("b", 10, 2, (0,), frozen=8),
    unit("add", 0, 0, (0, 1), layers=()),
    unit("a", 60, 0, (2,)),  # A second call of the layer.
]


def test_a_group_adds_up_its_units():
    first, second = layer_groups(UNITS, [0, 0, 1, 1], 2)
    assert (first.layers, second.layers) == (("a", "b"), ("a",))
    assert (first.units, second.units) == ((0, 1), (2, 3))
    assert (first.parameters, first.weight_bytes, first.frozen_bytes, first.largest_bytes) == (7, 28, 8, 20)
    assert (first.share, second.share) == (0.4, 0.6)
    assert first.activation_bytes_per_row == second.activation_bytes_per_row == 20


def test_what_arrives_is_counted_once_for_each_value():
    first, second = layer_groups(UNITS, [0, 0, 1, 1], 2)
    assert (first.arriving_bytes_per_row, second.arriving_bytes_per_row) == (0, 14)


def test_costs_may_be_given():
    assert [group.share for group in layer_groups(UNITS, [0, 0, 1, 1], 2, [1, 1, 1, 1])] == [0.5, 0.5]
    assert [group.share for group in layer_groups(UNITS, [0, 0, 1, 1], 2, [0] * 4)] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("stage_of", "words"), [([0, 0, 2, 2], "none for stage 1"), ([0, 0, 1, 2], r"stage 1 of \['add'\] alone")]
)
def test_a_stage_without_work_is_refused(stage_of, words):
    with pytest.raises(PlanError, match=words):
        layer_groups(UNITS, stage_of, 3)
