"""How many microbatches a stage keeps."""

from kparallel.schedule.action import Action
from kparallel.schedule.in_flight import in_flight


def program(text):
    return [Action.parse(each) for each in text.split()]


def test_what_waits_for_its_backward_pass_is_kept():
    assert in_flight([program("0F0 0F1 0B0 0F2 0B1 0B2"), program("1F0 1B0 1F1 1B1 1F2 1B2")]) == (2, 1)


def test_stages_of_one_lane_are_counted_apart():
    assert in_flight([program("0F0 0F1 1F0 1F1 1B0 1B1 0B0 0B1")]) == (2, 2)


def test_forward_passes_alone_keep_nothing():
    assert in_flight([program("0F0 0F1"), program("1F0 1F1")]) == (0, 0)
    assert in_flight([]) == ()
