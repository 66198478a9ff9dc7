"""The denominators of the losses: what each replica counts of its rows, summed over the whole batch."""

from collections.abc import Callable

import tensorflow as tf

from kparallel.data.share import Share
from kparallel.engine.loss_stage import Factors
from kparallel.engine.replica import Replica
from kparallel.engine.term_table import WeightedTerm
from kparallel.loss.term import as_scalar

__all__: list[str] = []


def whole_batch_factors(
    replica: Replica,
    share: Share,
    terms: list[WeightedTerm],
    statistics: list[tf.Tensor],
    scale: Callable[..., tf.Tensor],
) -> Factors:
    """Sum this replica's statistics over the replicas, and return the factors that they make.

    Args:
        replica: This one.
        share: Its rows.
        terms: One of each loss.
        statistics: This replica's, of all terms one after another.
        scale: Applies the optimizer's loss scale.
    """
    total = iter(_summed(replica, share, statistics, by_rows=all(term.by_rows for _, term in terms)))
    gradient, report = [], []
    for weight, term in terms:
        of_gradient, of_report = term.factors([next(total) for _ in term.statistics])
        gradient.append(scale(of_gradient * as_scalar(weight, tf.float64)))
        report.append(of_report)
    return Factors(gradient, report)


def rows_of_batch(replica: Replica, share: Share) -> tf.Tensor:
    """Return the number of rows of the whole batch, as a float64 scalar."""
    if share.whole is not None:
        return tf.constant(float(share.whole), tf.float64)
    return replica.last.all_reduce([tf.constant(float(share.count), tf.float64)])[0]


def _summed(replica: Replica, share: Share, statistics: list[tf.Tensor], by_rows: bool) -> list[tf.Tensor]:
    """Sum statistics over the replicas; without communication where the number of rows determines the sums."""
    local = [tf.cast(each, tf.float64) for each in statistics]
    if by_rows and share.whole is not None:
        return [each / float(share.count) * float(share.whole) if share.count else each for each in local]
    if not share.count:
        local = [tf.zeros((), tf.float64) for _ in local]
    with tf.name_scope(f"reduce{len(replica.pipeline.stages) - 1}"):
        return tf.unstack(replica.last.all_reduce([tf.stack(local)])[0]) if local else []
