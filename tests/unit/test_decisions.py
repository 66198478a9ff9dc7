"""A step that runs eagerly takes the decisions of the run in which it was traced."""

import pytest

from kparallel.ownstep.decisions import Decisions


def never():
    raise AssertionError("Nothing is looked for in a graph that is not there.")


@pytest.fixture
def traced():
    """Return the decisions of a step with an update on each side of a condition, and then its results."""
    found = Decisions()
    found.of("an update", lambda: "left", conditional=True)
    found.of("an update", lambda: "right", conditional=True)
    found.of("results", lambda: ["mean"])
    return found


def test_they_come_again_in_their_order(traced):
    eager = Decisions(traced)
    assert [eager.of(kind, never) for kind in ("an update", "an update", "results")] == ["left", "right", ["mean"]]


def test_a_side_of_a_condition_that_does_not_run_is_passed_over(traced):
    assert Decisions(traced).of("results", never) == ["mean"]


def test_another_way_than_the_traced_one_is_told(traced):
    eager = Decisions(traced)
    with pytest.raises(RuntimeError, match="when it was traced, results, received a start"):
        eager.of("a start", never)
    eager = Decisions(traced)
    eager.of("results", never)
    with pytest.raises(RuntimeError, match="no more than when it was traced, received results"):
        eager.of("results", never)
