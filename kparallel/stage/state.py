"""The state of a stage, and how its changes by the parts of a batch (microbatches on replicas) are combined.

```text
rule       microbatch m starts from     combined over microbatches       combined over replicas
SEED       the end of m-1               the last end                     not: each replica has its own chain
CHAIN      the end of m-1               the last end                     average, weighted by rows
COMMON     the start of the batch       any end: all are equal           any: all are equal
SUM        the start of the batch       sum of the changes               sum of the changes
MEAN       the start of the batch       average, weighted by rows        average, weighted by rows
MOMENTS    the start of the batch       average                          average over replicas that had rows
ROWS       its rows of the variable     concatenated                     gathered
```

A replica sends its change (end minus start) times a weight, see `State.changes`. The sum over the replicas, divided by
the total weight, is added to the start, see `State.commit`.
"""

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from kparallel.errors import DataError
from kparallel.stage.dependence import Dependence

__all__: list[str] = []

# The seeds of replica i are shifted by i times this number. It is odd, so all shifts differ modulo 2**32, and large, so
# that the chains of seeds do not meet.
_SEED_STRIDE = 0x9E3779B9

End = list[tf.Tensor | None]  # The state after a call, None where it does not change.


class Rule(enum.Enum):
    """How the changes of a variable by the parts of a batch are combined."""

    SEED = "passes on from microbatch to microbatch, and each replica draws its own"
    ROWS = "belongs to the rows: each part takes and leaves its own, as a stateful recurrent layer does"
    MOMENTS = "starts from the batch's first value, and is averaged over the parts: BatchNorm's"
    COMMON = "starts from the batch's first value, and ends alike in each part"
    SUM = "starts from the batch's first value, and its changes add up"
    MEAN = "starts from the batch's first value, and is averaged over the rows"
    CHAIN = "passes on from microbatch to microbatch, and is averaged over the rows of the replicas"


RULES = {
    Dependence.NONE: Rule.COMMON,
    Dependence.SUM: Rule.SUM,
    Dependence.MEAN: Rule.MEAN,
    Dependence.ROWS: Rule.CHAIN,
    Dependence.OTHER: Rule.CHAIN,
}


@dataclass(frozen=True)
class RowRange:
    """A range of rows of the whole batch.

    Args:
        first: The index of the first row, or None if this replica does not know it.
        count: The number of rows.
        whole: The number of rows of the whole batch, or None if this replica does not know it.
    """

    first: int | None
    count: int
    whole: int | None


class State:
    """The variables that a stage's call may change, except its weights.

    Args:
        variables: The variables; every list of state has their order.
        seeds: The ids of those that hold seeds.
        moments: The ids of BatchNorm's moving statistics.
        rows: The ids of those that hold a value for each row of the batch.
    """

    def __init__(self, variables: Iterable[keras.Variable], seeds: set[int], moments: set[int], rows: set[int]) -> None:
        self.variables = list(variables)
        # `[v]`: the rules that follow from the kind of the variable. All others (None) follow from the graph of the
        # call.
        known = dict.fromkeys(seeds, Rule.SEED) | dict.fromkeys(moments, Rule.MOMENTS) | dict.fromkeys(rows, Rule.ROWS)
        self.known: list[Rule | None] = [known.get(id(variable)) for variable in self.variables]

    def read(self, replica_index: int, known: Mapping[int, tf.Tensor] | None = None) -> list[tf.Tensor]:
        """Return this replica's state as tensors.

        Args:
            replica_index: It shifts the seeds, so that each replica draws random numbers of its own. Replica 0 has the
                seeds of one device.
            known: By the id of a variable, the value of one that cannot be read here. Default none.
        """
        shift, known = seed_shift(replica_index), known or {}
        return [
            tf.identity(variable.value) + tf.cast(shift, variable.value.dtype)
            if rule is Rule.SEED and replica_index
            else tf.identity(known.get(id(variable), variable.value))
            for variable, rule in zip(self.variables, self.known, strict=True)
        ]

    def of_rows(self, state: list[tf.Tensor], row_range: RowRange) -> list[tf.Tensor]:
        """Return the state for a call on some rows: of a variable that holds rows only these.

        Raises:
            DataError: A variable holds another number of rows than the batch has, or this replica does not know which
                of them are its own.
        """
        return [
            _rows_of(variable, value, row_range) if rule is Rule.ROWS else value
            for variable, value, rule in zip(self.variables, state, self.known, strict=True)
        ]

    def left_by_rows(self, ends: Sequence[End], rows: int) -> list[tuple[keras.Variable, tf.Tensor]]:
        """Return the changed variables that hold rows, each with the new values for this replica's rows."""
        return [
            # An empty share has a padding row, which is cut off.
            (variable, tf.concat([end[index] for end in ends], 0)[:rows])
            for index, variable in enumerate(self.variables)
            if self.known[index] is Rule.ROWS and ends[-1][index] is not None
        ]

    def chain(self, state: list[tf.Tensor], end: End, rules: Sequence[Rule]) -> list[tf.Tensor]:
        """Return the state from which the next microbatch starts, given the state after this one."""
        return [
            after if after is not None and rule in (Rule.SEED, Rule.CHAIN) else before
            for before, after, rule in zip(state, end, rules, strict=True)
        ]

    def changes(
        self, start: list[tf.Tensor], ends: Sequence[End], rules: Sequence[Rule], counts: Sequence[int], rows: int
    ) -> list[tf.Tensor]:
        """Return this replica's weighted changes of the variables that are summed over the replicas.

        Args:
            start: `[v]`: the state before the batch, as returned by `read`.
            ends: `[m][v]`: the state after each microbatch.
            rules: `[v]`.
            counts: `[m]`: the number of rows of each microbatch.
            rows: The number of this replica's rows; without any, all changes are 0.

        Returns:
            One change for each changed variable of the rules MOMENTS, SUM, MEAN and CHAIN. Floats keep their dtype, all
            others become int64.
        """
        changes = []
        for index in _added(ends, rules):
            before = _wide(start[index])
            parts = [_wide(end[index]) - before for end in ends]
            # `[m]`: the weight of each microbatch. The last end of a chain contains the changes of all before it.
            scales: dict[Rule, Sequence[float]] = {
                Rule.MOMENTS: [1 / len(ends)] * len(ends),
                Rule.SUM: [1] * len(ends),
                Rule.MEAN: list(counts),
                Rule.CHAIN: [*[0] * (len(ends) - 1), rows],
            }
            scaled = [part * tf.cast(w, part.dtype) for part, w in zip(parts, scales[rules[index]], strict=True) if w]
            changes.append(tf.add_n(scaled) if rows else tf.zeros_like(before))
        return changes

    def commit(
        self,
        start: list[tf.Tensor],
        ends: Sequence[End],
        rules: Sequence[Rule],
        sums: list[tf.Tensor],
        totals: tuple[tf.Tensor, tf.Tensor],
        replica_index: int,
    ) -> None:
        """Write the state after a batch: every replica writes the same values, except that each has seeds of its own.

        Args:
            start, ends, rules: As in `changes`.
            sums: The result of `changes`, summed over the replicas.
            totals: The number of rows of the batch, and of replicas that had rows: float64 scalars.
            replica_index: As in `read`.
        """
        rows, replicas = totals
        for index, change in zip(_added(ends, rules), sums, strict=True):
            before = start[index]
            weight = {Rule.MOMENTS: replicas, Rule.SUM: tf.ones_like(rows)}.get(rules[index], rows)
            weight = tf.cast(weight, change.dtype)
            # An empty share changes nothing, and has a weight of 0: the batch's total is never 0.
            change = change / weight if change.dtype.is_floating else change // weight
            self.variables[index].assign(tf.cast(_wide(before) + change, before.dtype))
        for index, after in enumerate(ends[-1]):
            if after is not None and rules[index] is Rule.COMMON:
                self.variables[index].assign(after)
            elif after is not None and rules[index] is Rule.SEED:
                # Without the shift, so that a saved file holds the seed state of one device.
                self.variables[index].assign(after - tf.cast(seed_shift(replica_index), after.dtype))

    def changed(self, ends: Sequence[End]) -> list[keras.Variable]:
        """Return the variables that the calls changed."""
        return [variable for variable, after in zip(self.variables, ends[-1], strict=True) if after is not None]


def _added(ends: Sequence[End], rules: Sequence[Rule]) -> Iterator[int]:
    """Yield the indices of the changed variables that are summed over the replicas."""
    for index, (after, rule) in enumerate(zip(ends[-1], rules, strict=True)):
        if after is not None and rule not in (Rule.SEED, Rule.COMMON, Rule.ROWS):
            yield index


def _rows_of(variable: keras.Variable, value: tf.Tensor, row_range: RowRange) -> tf.Tensor:
    """Return the values for a range of rows; zeros for the padding row of an empty share."""
    size = int(variable.shape[0])
    if row_range.whole is None or row_range.first is None:
        raise DataError(
            "Expected batches that every replica sees whole, as arrays and datasets on one machine are, for a stateful "
            "recurrent layer: its state belongs to the rows, and here a replica does not know which of them it has."
        )
    if row_range.whole != size:
        raise DataError(
            f"If an RNN is stateful, the batch size of the input sequences must be the same as the batch size of the "
            f"initial state. Expected batches of {size} rows, received {row_range.whole}."
        )
    if not row_range.count:
        return tf.zeros_like(value[:1])
    return value[row_range.first : row_range.first + row_range.count]


def _wide(value: tf.Tensor) -> tf.Tensor:
    """Return a floating tensor as it is, any other as int64, in which sums do not overflow."""
    return value if value.dtype.is_floating else tf.cast(value, tf.int64)


def seed_shift(replica_index: int) -> tf.Tensor:
    """Return what is added to the state of a replica's seeds, so that replicas draw apart."""
    return tf.constant([replica_index * _SEED_STRIDE % 2**32, 0], tf.uint32)
