"""The denominators of the losses: the statistics of each replica's rows, summed over the whole batch."""

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
    """Sum the statistics over the replicas and return the factors of the whole batch.

    Args:
        replica: The present replica.
        share: Its rows.
        terms: All terms of one microbatch; they say what the statistics mean.
        statistics: This replica's statistics, those of all terms in one list.
        scale: Applies the optimizer's loss scale.
    """
    # Each term takes its own statistics off the front of the common list.
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
    """Sum statistics over the replicas; without communication if the row counts already determine the sums."""
    local = [tf.cast(statistic, tf.float64) for statistic in statistics]
    if by_rows and share.whole is not None:
        # Such a statistic is proportional to the rows. An empty share needs no factors: its gradients are zeroed.
        return [
            statistic / float(share.count) * float(share.whole) if share.count else statistic for statistic in local
        ]
    if not share.count:  # The padding row of an empty share must not count.
        local = [tf.zeros((), tf.float64) for _ in local]
    with tf.name_scope(f"reduce{len(replica.pipeline.stages) - 1}"):
        return tf.unstack(replica.last.all_reduce([tf.stack(local)])[0]) if local else []
