"""What counts as a difference between a whole and its parts."""

import keras
import numpy as np
import tensorflow as tf

from kparallel.ownstep.compare import Outcome, as_arrays, compare, is_finite, rounding_of
from kparallel.ownstep.few_rows import overlapping, telling
from kparallel.ownstep.finding import described


def outcome(gradient):
    return Outcome([{"kernel": gradient}], {}, {})


def test_rounding_of_a_narrow_dtype_is_no_finding():
    whole, rounded, other = (outcome(np.asarray([1.0, number], "float32")) for number in (0.5, 0.505, 0.8))
    for policy, limit in (("float64", 0.0), ("float32", 2.4e-4), ("mixed_float16", 0.016), ("mixed_bfloat16", 0.125)):
        rounding = rounding_of([keras.layers.Dense(1, dtype=policy)])
        assert abs(rounding - limit) <= 0.05 * limit
        assert (compare(whole, whole, rounded, rounding) is None) == (limit > 0.01)
        assert compare(whole, whole, other, rounding) is not None
    assert rounding_of([], "bfloat16") == rounding_of([keras.layers.Dense(1, dtype="mixed_bfloat16")])


def slices(values, indices):
    return tf.IndexedSlices(tf.constant(values), tf.constant(indices))


def test_slices_are_compared_by_index():
    whole = slices([[1.0], [2.0], [4.0]], [5, 3, 5])
    in_another_order = slices([[2.0], [4.0], [1.0], [0.0]], [3, 5, 5, 7])
    summed = slices([[5.0], [2.0]], [5, 3])
    one, same, other = (outcome(as_arrays(each, squared=True)) for each in (whole, in_another_order, summed))
    assert compare(one, one, same) is None
    assert compare(one, one, other).what.startswith("the slices of the gradient of 'kernel'")
    one, other = (outcome(as_arrays(each, squared=False)) for each in (whole, summed))
    assert compare(one, one, other) is None


def test_what_is_not_finite_compares_with_nothing():
    assert is_finite(outcome(np.ones(2)))
    assert not is_finite(outcome(np.asarray([1.0, np.nan])))
    assert not is_finite(outcome(as_arrays(slices([np.inf], [0]), squared=True)))


def test_parts_have_a_row_in_common_with_the_next():
    assert overlapping(8, 3) == [0, 1, 1, 2, 2, 3]
    assert overlapping(3, 2) == [0, 1, 1, 2]
    assert overlapping(2, 2) == [0, 1]
    assert overlapping(1, 2) == []


def test_parts_differ_in_size_and_in_what_is_missing():
    rows = 9
    x, weights, tokens = np.arange(2.0 * rows).reshape(rows, 2), np.ones(rows), np.ones((rows, 4), "int64")
    assert telling((x[:4], x[:4]), 2) == [0, 1, 3]
    assert telling((x[:2],), 2) == [0, 1] and telling((x[:1],), 2) == []
    assert len(telling((x,), 3)) == 7 and len(telling((x[:6],), 3)) == 5
    weights[1] = 0
    chosen = telling(tuple(map(tf.constant, (x, x, weights))), 2)
    assert len(chosen) == 5 and 1 in chosen[3:]
    tokens[3, 2:] = tokens[6, 1:] = 0
    assert telling({"tokens": tf.constant(tokens), "name": tf.constant(["a"] * rows)}, 2) == [0, 1, 2, 3, 6]


def test_another_order_that_makes_more_than_rounding_widens_no_limit():
    whole, other = (Outcome([], {}, {"order": np.asarray(value)}) for value in (1.0, 1.0 + 1e-4))
    assert compare(whole, other, other) is not None
    near = Outcome([], {}, {"order": np.asarray(1.0 + 1e-11)})
    assert compare(whole, near, near) is None


def test_truth_values_are_compared():
    one, other = (Outcome([], {}, {"any": np.asarray(value)}) for value in (True, False))
    assert compare(one, one, one) is None
    assert compare(one, one, other) is not None


def test_what_an_optimizer_updates_in_one_of_the_runs_alone_is_not_compared():
    one = Outcome([], {"kernel": np.asarray(1.0), "count": np.asarray(2.0)}, {})
    assert compare(one, one, Outcome(None, {"count": np.asarray(2.0)}, {})) is None
    assert compare(one, one, Outcome(None, {"count": np.asarray(3.0)}, {})).what == "the value assigned to 'count'"


def test_what_is_assigned_to_weights_is_compared_where_it_is_known():
    one, other = (Outcome([], {}, {}, {"kernel": np.asarray(value)}) for value in (1.0, 1.1))
    assert compare(one, one, other).what == "the value assigned to 'kernel'"
    assert compare(one, one, Outcome([], {}, {})) is None


def test_what_is_not_finite_in_the_parts_alone_is_said_so():
    """As the mean over the entries of a mask is where a replica has none of them."""
    finding = compare(outcome(np.ones(2)), outcome(np.ones(2)), outcome(np.asarray([1.0, np.nan])))
    text = described(finding, "Model", "train_step", 2, 5, False)
    assert "received the gradient of 'kernel' in update 1 of 1, which is not finite in one of the two. Likely" in text


def test_a_result_without_a_name_is_called_the_result():
    whole, divided = (Outcome([], {}, {"": np.asarray([number])}) for number in (1.0, 2.0))
    finding = compare(whole, whole, divided)
    assert finding is not None and finding.what == "the result"
