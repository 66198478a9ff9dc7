"""How many microbatches a stage keeps."""

from kparallel.schedule.action import Action
from kparallel.schedule.in_flight import deferred, in_flight


def program(text):
    return [Action.parse(each) for each in text.split()]


def test_what_waits_for_its_backward_pass_is_kept():
    assert in_flight([program("0F0 0F1 0B0 0F2 0B1 0B2"), program("1F0 1B0 1F1 1B1 1F2 1B2")]) == (2, 1)


def test_stages_of_one_lane_are_counted_apart():
    assert in_flight([program("0F0 0F1 1F0 1F1 1B0 1B1 0B0 0B1")]) == (2, 2)


def test_forward_passes_alone_keep_nothing():
    assert in_flight([program("0F0 0F1"), program("1F0 1F1")]) == (0, 0)
    assert in_flight([]) == ()


def test_a_microbatch_whose_backward_pass_is_split_is_kept_until_the_gradients_of_its_weights():
    programs = [program("0F0 0F1 0B0 0F2 0W0 0B1 0B2 0W1 0W2")]
    assert in_flight(programs) == (3,)
    assert deferred(programs) == (1,), "2 wait from 0B2 on, of which the action after it takes one"
    assert deferred([program("0F0 0B0 1F0 0W0 1B0 1W0")]) == (1, 0)
    assert deferred([program("0F0 0B0 0W0 0F1 0B1 0W1")]) == (0,), "the next action takes what B has left"
    assert deferred([program("0F0 0B0")]) == (0,) and deferred([]) == ()
