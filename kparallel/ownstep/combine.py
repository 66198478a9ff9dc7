"""How the replicas' values of one variable, or of one result, become the whole batch's."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from kparallel.ownstep.portion import scaled, wide
from kparallel.ownstep.sums import StepSums
from kparallel.ownstep.written import Change
from kparallel.stage.dependence import Dependence

__all__: list[str] = []


def own_average(variable: keras.Variable, sums: StepSums, moments: bool) -> tf.Tensor:
    """Return what this replica gives to a variable that is averaged: the sum of all gives its new value.

    Args:
        variable: Floats are averaged over rows, anything else is the first replica's.
        sums: Knows this replica's share.
        moments: Whether it is a statistic of BatchNorm's, averaged over the replicas that have rows.
    """
    end = wide(tf.convert_to_tensor(variable.value))
    if not end.dtype.is_floating:
        # A sum in which all others give zero is the first replica's value on all.
        return end if sums.first else tf.zeros_like(end)
    if moments:
        return sums.share.counted(scaled(end, sums.share.filled))
    return sums.share.averaged(end)


def own_sum(variable: keras.Variable, sums: StepSums, change: Change) -> tf.Tensor:
    """Return what this replica gives to a variable to which sums over rows were added.

    All replicas have had one value before, but for rounding, unless each wrote it anew. The first one's counts, so that
    the sum of all is the same to the last bit on each.

    Args:
        variable: Its value is that of the start, with what this replica has added.
        sums: Knows this replica's share.
        change: What it has added: a sum at least.
    """
    added, averaged = _total(variable, change.sums), _total(variable, change.means)
    if change.replaced and averaged.dtype.is_floating:
        # value = its own start + sums: what follows from its rows is averaged by rows
        return sums.share.averaged(wide(tf.convert_to_tensor(variable.value)) - added) + sums.share.counted(added)
    # value = start + sums + means, on each replica with its own rows
    #
    # first replica      value - its means     + its part of its means
    # any other          its sums              + its part of its means
    if not sums.first:
        own = [sums.share.counted(added)]
    else:
        value = wide(tf.convert_to_tensor(variable.value))
        own = [value if sums.share.rows else value - added]
    if change.means and averaged.dtype.is_floating:  # Of integers the first replica's means are in its value.
        own += [sums.share.averaged(averaged), *([-averaged] if sums.first else [])]
    return own[0] if len(own) == 1 else tf.add_n(own)


def _total(variable: keras.Variable, parts: list[tf.Tensor]) -> tf.Tensor:
    """Return the sum of what was added to a variable, in the variable's shape."""
    wider = [wide(tf.cast(each, variable.dtype)) for each in parts]
    total = wider[0] if len(wider) == 1 else tf.add_n(wider) if wider else wide(tf.zeros((), variable.dtype))
    # A number may have been added to each entry.
    return total if total.shape == variable.shape else tf.broadcast_to(total, variable.shape)


def whole_results(leaves: list[tf.Tensor], dependences: Sequence[Dependence], sums: StepSums) -> list[tf.Tensor]:
    """Return what a step gives, of the whole batch: sums added, rows gathered, means averaged over the rows.

    Args:
        leaves: This replica's.
        dependences: How each depends on the rows: what is equal on all replicas stays.
        sums: To the other replicas.
    """
    leaves = list(leaves)
    # All sums in one collective, then all rows in another.
    joined = [i for i, each in enumerate(dependences) if each not in (Dependence.NONE, Dependence.ROWS)]
    totals = sums.add([_own_result(leaves[index], dependences[index], sums) for index in joined])
    for index, total in zip(joined, totals, strict=True):
        leaves[index] = tf.cast(total, leaves[index].dtype)
    held = [index for index, dependence in enumerate(dependences) if dependence is Dependence.ROWS]
    for index, parts in zip(held, sums.collect([leaves[index][: sums.share.rows] for index in held]), strict=True):
        leaves[index] = tf.concat(parts, 0)
    return leaves


def _own_result(leaf: tf.Tensor, dependence: Dependence, sums: StepSums) -> tf.Tensor:
    leaf = wide(leaf)
    if dependence is Dependence.SUM:
        return sums.share.counted(leaf)
    if leaf.dtype.is_floating:
        return sums.share.averaged(leaf)
    return leaf if sums.first else tf.zeros_like(leaf)
