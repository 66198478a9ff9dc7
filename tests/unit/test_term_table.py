"""The loss terms of a replica: by what computes them and by microbatch."""

import tensorflow as tf

from kparallel.engine.term_table import TermTable
from kparallel.loss.term import summed


def term(value):
    return summed(tf.constant(float(value)))


def numerators(table):
    return [float(value) for value in table.summed(lambda each: [each.numerator])]


def filled():
    """Return two losses, and one that stage 0 adds, of three microbatches."""
    table = TermTable(stages=2)
    for m in (1, 0, 2):  # A schedule may take any order.
        table.set_losses(m, [(None, term(1 + m)), (2.0, term(10 * m))])
        table.set_added(0, m, [term(100 + m)])
        table.set_added(1, m, [])
    return table


def test_a_term_is_summed_over_the_microbatches():
    assert numerators(filled()) == [6.0, 30.0, 303.0]


def test_terms_come_in_one_order_with_their_weights():
    pairs = filled().of_one_microbatch()
    assert [weight for weight, _ in pairs] == [None, 2.0, None]
    assert [float(each.numerator) for _, each in pairs] == [1.0, 0.0, 100.0]


def test_a_stage_knows_the_places_of_its_own_terms():
    table = filled()
    assert (table.added_by(0), table.added_by(1)) == (slice(2, 3), slice(3, 3))
    assert [float(each.numerator) for each in table.added()] == [100.0]


def test_a_pass_that_runs_again_replaces_what_it_added():
    table = filled()
    table.set_added(0, 2, [term(0)])
    assert numerators(table)[2] == 201.0


def test_a_loss_of_all_rows_fills_one_cell():
    table = TermTable(stages=1)
    table.set_losses(0, [(None, term(7))])
    for m in range(2):
        table.set_added(0, m, [term(m)])
    assert numerators(table) == [7.0, 1.0]
