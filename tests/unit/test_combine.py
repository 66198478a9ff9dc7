"""How the replicas' values of one variable become the whole batch's."""

from types import SimpleNamespace

import keras
import pytest
import tensorflow as tf

from kparallel.ownstep.combine import own_average, own_sum, whole_results
from kparallel.ownstep.portion import Portion
from kparallel.ownstep.written import Change
from kparallel.stage.dependence import Dependence

# Two replicas: the first has 3 of 4 rows, the second has 1.
SHARES = [Portion(3, 0.75, 0.5, 0.75), Portion(1, 0.25, 0.5, 0.25)]


def replica(index):
    return SimpleNamespace(share=SHARES[index], first=index == 0, replicas=2)


def total(own, values, dtype="float64"):
    """Return the sum over both replicas of what `own` makes of each one's value."""
    return float(sum(own(keras.Variable(value, dtype=dtype), replica(index)) for index, value in enumerate(values)))


@pytest.mark.parametrize(("moments", "expected"), [(False, 0.75 * 2 + 0.25 * 6), (True, 4.0)])
def test_ends_are_averaged_by_rows_and_moments_by_replicas(moments, expected):
    assert total(lambda v, r: own_average(v, r, moments), [2.0, 6.0]) == expected


def test_a_number_that_is_no_float_is_the_first_replicas():
    assert total(lambda v, r: own_average(v, r, False), [7, 9], "int32") == 7


def test_sums_are_added_to_the_value_that_all_had():
    # Both began at 10. The first added a sum of 1 and a mean of 4, the second a sum of 2 and a mean of 8.
    changes = [Change(sums=[tf.constant(s)], means=[tf.constant(m)]) for s, m in ((1.0, 4.0), (2.0, 8.0))]
    ends = [15.0, 20.0]
    found = total(lambda v, r: own_sum(v, r, changes[0 if r.first else 1]), ends)
    assert found == 10 + 1 + 2 + (0.75 * 4 + 0.25 * 8)


def test_counts_are_added_as_whole_numbers():
    changes = [Change(sums=[tf.constant(3)]), Change(sums=[tf.constant(1)])]
    assert total(lambda v, r: own_sum(v, r, changes[0 if r.first else 1]), [13, 11], "int64") == 14


def test_sums_are_added_to_what_each_has_made_of_its_rows():
    # The first wrote 4 and added 1, the second wrote 8 and added 2.
    changes = [Change(mean=True, replaced=True, sums=[tf.constant(s)]) for s in (1.0, 2.0)]
    found = total(lambda v, r: own_sum(v, r, changes[0 if r.first else 1]), [5.0, 10.0])
    assert found == 0.75 * 4 + 0.25 * 8 + 1 + 2


def test_what_the_row_of_an_empty_share_added_counts_nowhere():
    variable, change = keras.Variable([11.0, 12.0], dtype="float64"), Change(sums=[tf.constant(1.0, tf.float64)])
    empty = SimpleNamespace(share=Portion(0, 0.0, 0.0, False), first=True)
    # A number was added to each entry.
    assert own_sum(variable, empty, change).numpy().tolist() == [10.0, 11.0]
    empty.first = False
    assert own_sum(variable, empty, change).numpy().tolist() == [0.0, 0.0]


def test_results_are_summed_averaged_gathered_or_kept():
    """Replica 0 of two; the other one has as much of each."""
    sums = SimpleNamespace(
        share=SHARES[0],
        first=True,
        add=lambda values: [2 * value for value in values],
        collect=lambda values: [[value, value] for value in values],
    )
    leaves = [tf.constant(5.0), tf.constant(4.0), tf.constant([1.0, 2.0, 3.0]), tf.constant(6.0)]
    kinds = [Dependence.SUM, Dependence.MEAN, Dependence.ROWS, Dependence.NONE]
    found = [each.numpy().tolist() for each in whole_results(leaves, kinds, sums)]
    assert found == [10.0, 2 * 0.75 * 4.0, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0], 6.0]
