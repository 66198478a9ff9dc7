"""What one replica's rows count for in the whole batch."""

import numpy as np
import tensorflow as tf

from kparallel.ownstep.portion import Portion, over, scaled, wide

SHARE = Portion(rows=2, part=0.25, filled=0.5, sums=False)
EMPTY = Portion(rows=0, part=0.0, filled=0.0, sums=False)


def test_a_factor_keeps_all_digits_of_the_values_dtype():
    value = tf.constant(1.0, tf.float64)
    assert float(scaled(value, 1 / 3)) == 1 / 3 and scaled(value, 1.0) is value
    assert wide(tf.constant(2**31 - 1, tf.int32)).dtype == tf.int64 and wide(value) is value


def test_the_row_of_an_empty_share_counts_nowhere():
    bad = tf.constant([np.nan, 1.0])
    assert EMPTY.counted(bad).numpy().tolist() == EMPTY.averaged(bad).numpy().tolist() == [0.0, 0.0]
    assert SHARE.averaged(tf.constant([4.0])).numpy().tolist() == [1.0]


def test_losses_that_are_sums_count_as_they_are():
    share, value = Portion(rows=2, part=0.25, filled=0.5, sums=True), tf.constant([4.0])
    assert SHARE.factor == 0.25 and share.factor == 1.0 and Portion(0, 0.0, 0.0, True).factor == 0.0
    assert share.of_all(value).numpy() == 8.0 and share.one_of_all(value).numpy() == 2.0
    assert SHARE.of_all(value).numpy() == SHARE.one_of_all(value).numpy() == 4.0
    assert over(value, 0.5).numpy() == 8.0 and over(value, 0.0) is value
