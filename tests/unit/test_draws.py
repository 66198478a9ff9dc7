"""What random functions draw in the runs that a check compares."""

import numpy as np
import tensorflow as tf

from kparallel.ownstep.draws import Draws

NUMBERS = tf.reshape(tf.range(8), (4, 2))


def drawn(draws, rows, numbers=NUMBERS):
    """Return what a random function returns that is asked for some rows, and draws such numbers."""
    number = draws.number(rows)
    return numbers[:rows].numpy().tolist() if number is None else draws.own(numbers[:number]).numpy().tolist()


def test_parts_have_the_numbers_of_their_rows():
    draws = Draws(4)
    draws.whole()
    whole = drawn(draws, 4)
    draws.divided()
    parts = []
    for first, count in ((0, 3), (3, 1)):
        draws.begin(first, count)
        parts += drawn(draws, count)
    assert parts == whole == NUMBERS.numpy().tolist()


def test_in_another_order_each_row_keeps_its_numbers():
    draws, order = Draws(4), [3, 0, 1, 2]
    draws.whole()
    whole = drawn(draws, 4)
    draws.whole(order)
    assert drawn(draws, 4) == [whole[row] for row in order]


def test_a_draw_that_is_not_for_rows_is_left_alone():
    draws = Draws(4)
    draws.whole()
    assert draws.number(2) is None and draws.number(4) == 4
    draws.divided()
    draws.begin(0, 2)
    assert draws.number(2) is None  # The first draw, which happens to be as long as a part.
    assert draws.number(2) == 4 and draws.number(2) is None  # The second; there was no third.


def test_a_parts_tensor_takes_its_place_among_all_rows():
    draws = Draws(4)
    draws.whole()
    draws.divided()
    draws.begin(1, 2)
    np.testing.assert_array_equal(draws.among(tf.ones((2, 1))), [[0], [1], [1], [0]])
    draws.whole([3, 0, 1, 2])
    np.testing.assert_array_equal(draws.among(tf.constant([[3.0], [0.0], [1.0], [2.0]])), [[0], [1], [2], [3]])
