"""The state of a stage: what a batch that is divided among replicas and microbatches leaves of it."""

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from kparallel.errors import DataError
from kparallel.stage.dependence import Dependence

__all__: list[str] = []

# Odd and far apart modulo 2**32, so that the replicas' seeds do not meet.
_SEED_STRIDE = 0x9E3779B9

End = list[tf.Tensor | None]  # The state after a call, None where it does not change.


class Rule(enum.Enum):
    """How the parts of a batch, its microbatches on its replicas, change a variable together."""

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
    """Which rows of the whole batch some rows are.

    Args:
        first: The index of the first, or None where this replica cannot know.
        count: How many there are.
        whole: How many the whole batch has, or None where this replica cannot know.
    """

    first: int | None
    count: int
    whole: int | None


class State:
    """The variables that a stage's call may change, other than its weights.

    Args:
        variables: In the order of `read`.
        seeds: Ids of those that hold seeds.
        moments: Ids of BatchNorm's moving statistics.
        rows: Ids of those that hold a value for each row of the batch.
    """

    def __init__(self, variables: Iterable[keras.Variable], seeds: set[int], moments: set[int], rows: set[int]) -> None:
        self.variables = list(variables)
        known = dict.fromkeys(seeds, Rule.SEED) | dict.fromkeys(moments, Rule.MOMENTS) | dict.fromkeys(rows, Rule.ROWS)
        self.known: list[Rule | None] = [known.get(id(variable)) for variable in self.variables]

    def read(self, replica_index: int) -> list[tf.Tensor]:
        """Return this replica's state as tensors; `replica_index` shifts the seeds, so that replicas draw apart."""
        shift = seed_shift(replica_index)
        return [
            tf.identity(variable.value) + tf.cast(shift, variable.value.dtype)
            if rule is Rule.SEED and replica_index
            else tf.identity(variable.value)
            for variable, rule in zip(self.variables, self.known, strict=True)
        ]

    def of_rows(self, state: list[tf.Tensor], place: RowRange) -> list[tf.Tensor]:
        """Return the state with which some rows are called.

        Raises:
            DataError: A variable holds another number of rows than the batch has, or this replica does not know which.
        """
        return [
            _cut(variable, value, place) if rule is Rule.ROWS else value
            for variable, value, rule in zip(self.variables, state, self.known, strict=True)
        ]

    def left_by_rows(self, ends: Sequence[End], rows: int) -> list[tuple[keras.Variable, tf.Tensor]]:
        """Return the variables that hold rows, with what this replica's leave in them."""
        return [
            (variable, tf.concat([end[index] for end in ends], 0)[:rows])
            for index, variable in enumerate(self.variables)
            if self.known[index] is Rule.ROWS and ends[-1][index] is not None
        ]

    def chain(self, state: list[tf.Tensor], end: End, rules: Sequence[Rule]) -> list[tf.Tensor]:
        """Return the state from which the next microbatch starts."""
        return [
            last if last is not None and rule in (Rule.SEED, Rule.CHAIN) else first
            for first, last, rule in zip(state, end, rules, strict=True)
        ]

    def changes(
        self, start: list[tf.Tensor], ends: Sequence[End], rules: Sequence[Rule], counts: Sequence[int], rows: int
    ) -> list[tf.Tensor]:
        """Return by how much this replica's rows change what the replicas have to add up: floats and int64.

        Args:
            start: The state before the batch, as `read` gave it.
            ends: The state after each microbatch, in order.
            rules: Of each variable.
            counts: The rows of each microbatch.
            rows: This replica's rows: without any, nothing changes.
        """
        changes = []
        for index in _added(ends, rules):
            first = _wide(start[index])
            parts = [_wide(end[index]) - first for end in ends]
            scales: dict[Rule, Sequence[float]] = {
                Rule.MOMENTS: [1 / len(ends)] * len(ends),
                Rule.SUM: [1] * len(ends),
                Rule.MEAN: list(counts),
                Rule.CHAIN: [*[0] * (len(ends) - 1), rows],
            }
            scaled = [part * tf.cast(w, part.dtype) for part, w in zip(parts, scales[rules[index]], strict=True) if w]
            changes.append(tf.add_n(scaled) if rows else tf.zeros_like(first))
        return changes

    def commit(
        self,
        start: list[tf.Tensor],
        ends: Sequence[End],
        rules: Sequence[Rule],
        sums: list[tf.Tensor],
        whole: tuple[tf.Tensor, tf.Tensor],
        replica_index: int,
    ) -> None:
        """Write the state after a batch, equal on every replica but for the seeds' own chains.

        Args:
            start, ends, rules: As `changes` takes them.
            sums: What `changes` returned, summed over the replicas.
            whole: How many rows the replicas had, and how many replicas had rows: float64 scalars.
            replica_index: As in `read`.
        """
        rows, replicas = whole
        for index, change in zip(_added(ends, rules), sums, strict=True):
            first = start[index]
            over = {Rule.MOMENTS: replicas, Rule.SUM: tf.ones_like(rows)}.get(rules[index], rows)
            over = tf.cast(over, change.dtype)
            change = change / over if change.dtype.is_floating else change // over
            self.variables[index].assign(tf.cast(_wide(first) + change, first.dtype))
        for index, last in enumerate(ends[-1]):
            if last is not None and rules[index] is Rule.COMMON:
                self.variables[index].assign(last)
            elif last is not None and rules[index] is Rule.SEED:
                self.variables[index].assign(last - tf.cast(seed_shift(replica_index), last.dtype))

    def changed(self, ends: Sequence[End]) -> list[keras.Variable]:
        """Return the variables that a call changes."""
        return [variable for variable, last in zip(self.variables, ends[-1], strict=True) if last is not None]


def _added(ends: Sequence[End], rules: Sequence[Rule]) -> Iterator[int]:
    """Yield the indices of the changed state that the replicas have to add up."""
    for index, (last, rule) in enumerate(zip(ends[-1], rules, strict=True)):
        if last is not None and rule not in (Rule.SEED, Rule.COMMON, Rule.ROWS):
            yield index


def _cut(variable: keras.Variable, value: tf.Tensor, place: RowRange) -> tf.Tensor:
    """Return the rows of a place; zeros for the one row that an empty share is given."""
    size = int(variable.shape[0])
    if place.whole is None or place.first is None:
        raise DataError(
            "Expected batches that every replica sees whole, as arrays and datasets on one machine are, for a stateful "
            "recurrent layer: its state belongs to the rows, and here a replica does not know which of them it has."
        )
    if place.whole != size:
        raise DataError(
            f"If an RNN is stateful, the batch size of the input sequences must be the same as the batch size of the "
            f"initial state. Expected batches of {size} rows, received {place.whole}."
        )
    return value[place.first : place.first + place.count] if place.count else tf.zeros_like(value[:1])


def _wide(value: tf.Tensor) -> tf.Tensor:
    """Return a float as it is, anything else as what sums do not overflow."""
    return value if value.dtype.is_floating else tf.cast(value, tf.int64)


def seed_shift(replica_index: int) -> tf.Tensor:
    """Return what is added to the state of a replica's seeds, so that replicas draw apart."""
    return tf.constant([replica_index * _SEED_STRIDE % 2**32, 0], tf.uint32)
