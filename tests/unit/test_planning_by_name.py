"""Cuts by hand: every layer in one stage, stages in the model's order, mistakes told with the way out."""

from dataclasses import replace

import pytest

from kparallel.errors import PlanError
from kparallel.planning.by_name import count_stages, stages_by_name
from kparallel.planning.groups import layer_groups
from kparallel.planning.units import Unit


def unit(name, reads=(), layer=True):
    return Unit(name, 1.0, 10, 40, 8, 8, tuple(reads), (name,) if layer else ())


MODEL = [
    unit("embed"),
    unit("encoder/block_0", [0]),
    unit("encoder/block_1", [1]),
    unit("add", [0, 2], layer=False),
    unit("head", [3]),
]


def test_names_globs_and_what_lies_inside():
    assert stages_by_name(MODEL, [["embed", "encoder"], ["head"]]) == (0, 0, 0, 0, 1)
    assert stages_by_name(MODEL, [["embed", "block_0"], ["block_1", "head"]]) == (0, 0, 1, 1, 1)
    assert stages_by_name(MODEL, [["e*"], "head"]) == (0, 0, 0, 0, 1)


def test_cut_points():
    assert stages_by_name(MODEL, ["encoder", "head"]) == (0, 1, 1, 1, 2)
    assert stages_by_name(MODEL, ["block_1"]) == (0, 0, 1, 1, 1)


def test_names_by_device():
    assert stages_by_name(MODEL, {"GPU:0": ["embed", "encoder"], "GPU:1": ["head"]}) == (0, 0, 0, 0, 1)
    assert stages_by_name(MODEL, {"GPU:0": "e*", "GPU:1": "head"}) == (0, 0, 0, 0, 1)


def test_how_many_stages():
    cuts = [["head"], ["block_1", "head"], [["embed"], ["head"]], {"GPU:0": "e*", "GPU:1": "head"}, [["e*"], "head"]]
    assert [count_stages(cut) for cut in cuts] == [2, 3, 2, 2, 2]


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ([["embed", "encoder"], ["heat"]], "received 'heat'.*Did you mean 'head'"),
        (["encoder/block_2"], "Did you mean 'encoder/block_"),
        ([["embed", "encoder"], ["encoder/block_1", "head"]], "'encoder/block_1' in stages 0 and 1.*shared layer"),
        ([["embed"], ["head"]], r"every layer in a stage, received none for \['encoder/block_0', 'encoder/block_1'\]"),
        ([["embed", "head"], ["encoder"]], "'head' in stage 0 reads 'add' in stage 1. Move one"),
        (["head", "encoder"], "cut points in the order of the model"),
        (["embed"], "received 'embed', before which no layer is left for stage 0. Leave it out"),
        ("head", r"Expected stages to be a number.*received 'head'. To cut before this layer, write \['head'\]"),
        ([], r"Expected stages to be a number.*received \[\]"),
        ({}, "Expected stages to be a number.*received {}"),
        (2.5, "Expected stages to be a number.*received 2.5"),
        ([["embed"], 3], "names or globs of layers for stage 1, received 3"),
        ([["embed"], ["encoder", 4]], r"for stage 1, received \['encoder', 4\]"),
    ],
)
def test_mistakes(groups, text):
    with pytest.raises(PlanError, match=text):
        stages_by_name(MODEL, groups)


def test_a_cut_between_two_calls_of_a_layer_with_state():
    model = [unit("norm"), unit("dense", [0]), replace(unit("norm", [1]), stays_with=0), unit("head", [2])]
    assert stages_by_name(model, ["head"]) == (0, 0, 0, 1)
    with pytest.raises(PlanError, match="'norm', a layer with state.*stages 0 and 1.*shared layer. Move the cut"):
        stages_by_name(model, ["dense"])


def test_groups_of_a_model():
    first, second = layer_groups(MODEL, (0, 0, 0, 0, 1), 2)
    assert first.layers == ("embed", "encoder/block_0", "encoder/block_1")
    assert (first.parameters, first.weight_bytes, first.units) == (40, 160, (0, 1, 2, 3))
    assert (first.share, second.share) == (0.8, 0.2)
    assert (first.arriving_bytes_per_row, second.arriving_bytes_per_row) == (0, 8)
    assert layer_groups(MODEL, (0, 0, 0, 0, 1), 2, [0, 0, 0, 0, 1])[1].share == 1


def test_a_stage_without_layers_or_work():
    with pytest.raises(PlanError, match="received none for stage 1"):
        layer_groups(MODEL, (0,) * 5, 2)
    idle = [*MODEL, Unit("flat", 0.0, 0, 0, 0, 8, (4,), ("flat",))]
    with pytest.raises(PlanError, match=r"weights or work, received stage 1 of \['flat'\] alone. Put them"):
        layer_groups(idle, (0, 0, 0, 0, 0, 1), 2)
