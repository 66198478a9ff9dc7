"""A loss that needs the model is found out once, and then the whole step runs."""

import pytest

from kparallel.loss.overridden import NotOfOutputsError
from kparallel.model.loss_of_model import LossOfModel


@pytest.mark.parametrize(
    ("needs_model", "expected"), [(False, ["passes", "passes"]), (True, ["passes", "whole", "whole"])]
)
def test_passes_are_tried_until_a_trace_refuses_them(needs_model, expected):
    called = []

    def passes(batch):
        called.append("passes")
        if needs_model:
            raise NotOfOutputsError
        return batch

    def whole(batch):
        called.append("whole")
        return batch

    step = LossOfModel(passes, whole)
    assert [step(1), step(2)] == [1, 2]
    assert called == expected


def test_any_other_error_is_the_users():
    def passes(batch):
        raise ValueError("shapes")

    with pytest.raises(ValueError, match="shapes"):
        LossOfModel(passes, lambda batch: batch)(1)
