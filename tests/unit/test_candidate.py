"""The candidates of a search for a plan."""

from kparallel.planning.candidate import Candidate, candidates

FREE = (None, None, None, None)


def test_each_fits_the_devices_and_the_rows_and_comes_once():
    found = list(candidates(4, 6, 3, FREE))
    assert len(found) == len(set(found))
    for each in found:
        assert each.replicas * each.stages <= 4 and each.stages <= 3
        assert 1 <= each.microbatches <= -(-6 // each.replicas)
    assert {(each.replicas, each.stages) for each in found} == {(1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (2, 2), (1, 3)}
    assert Candidate(4, 1, 1, "never").plain and not Candidate(4, 1, 1, "always").plain


def test_what_the_user_fixed_stays():
    assert set(candidates(4, 8, 4, (2, 2, 3, "always"))) == {Candidate(2, 2, 3, "always")}
    assert {each.microbatches for each in candidates(4, 8, 4, (None, 1, None, None))} <= {1, 2, 3, 4, 6, 8}
    assert list(candidates(4, 8, 4, (5, None, None, None))) == []


def test_the_simplest_comes_first_among_equally_fast_ones():
    one, two = Candidate(2, 1, 1, "never"), Candidate(1, 1, 1, "never")
    others = [Candidate(2, 2, 1, "never"), Candidate(2, 1, 2, "never"), Candidate(2, 1, 1, "always"), two]
    assert min([*others, one], key=lambda each: each.simplicity) == one
