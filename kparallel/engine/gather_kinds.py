"""Decides the kind of each gather whose gradient comes as slices."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kparallel.data.share import Rows, row_count
from kparallel.engine.all_reduce import Sort
from kparallel.engine.executor import Executor, StageFunction
from kparallel.engine.gather_probe import Probe, varying_names
from kparallel.engine.gather_sources import Source, sources
from kparallel.engine.sparse_gradients import Kind, MicrobatchSlices, SlicedGradient, by_kind, unsorted
from kparallel.errors import ModelError
from kparallel.stage.pipeline import Pipeline
from kparallel.stage.state import Rule

__all__: list[str] = []

# The numbers of rows that are compared, the same on all replicas; a single row might be broadcast.
_FEW, _MORE = 2, 3


class Kinds:
    """Sorts slices by the kinds of their gathers, each of which is decided once.

    All replicas decide alike: from the graph of the stages, which is the same for all numbers of rows.

    Args:
        pipeline: The stages.
        calls: As the executor calls them.
        microbatches: Into how many microbatches a share is divided.
        replicas: Into how many shares a batch is divided.
    """

    def __init__(self, pipeline: Pipeline, calls: Sequence[StageFunction], microbatches: int, replicas: int) -> None:
        self._pipeline = pipeline
        self._calls = calls
        self._microbatches = microbatches
        self._undivided = microbatches * replicas == 1
        self._decided: dict[tuple[int, int, bool], list[Kind]] = {}

    def sorter(self, executor: Executor, rows: Rows, linear: bool) -> Sort:
        """Return what sorts the slices of a weight, by its stage and index.

        Args:
            executor: Has carried out the share.
            rows: The share.
            linear: Whether the optimizer only scales gradients and adds them, so that all slices may stay apart.
        """

        def sort(s: int, index: int) -> SlicedGradient:
            if linear or self._undivided:
                return unsorted(executor.gradients[s][index])
            return self._sorted(executor, rows, s, index)

        return sort

    def _sorted(self, executor: Executor, rows: Rows, s: int, index: int) -> SlicedGradient:
        """Return the slices of one weight of one stage by their kind.

        Raises:
            ModelError: A kind cannot be told.
        """
        slices: MicrobatchSlices = executor.gradients[s][index]
        traced = self._traced(executor, rows, s, index)
        divided = rows.whole is None
        if (s, index, divided) not in self._decided:
            self._decided[s, index, divided] = self._decide(executor, rows, s, index, traced[0])
        kinds = self._decided[s, index, divided]
        if all(kind is Kind.ROWS for kind in kinds):
            return unsorted(slices)
        sizes = [[_size(source) for source in each] for each in traced]
        if any(len(size) != len(kinds) or _unknown(size) > 1 for size in sizes):
            raise self._undecided(s, index, "how many slices each gives")
        return by_kind(slices, kinds, sizes)

    def _traced(self, executor: Executor, rows: Rows, s: int, index: int) -> list[list[Source]]:
        """Return the sources of each microbatch's slices."""
        slices: MicrobatchSlices = executor.gradients[s][index]
        if tf.executing_eagerly():  # There is no graph to look at.
            probe = self._probe(executor)
            return [probe.sources(rows.x, count or row_count(rows.x))[s, index] for count in slices.rows]
        varying = varying_names(rows.x, executor.start, self._varying(executor))
        return [sources(part.indices, varying) for part in slices.parts]

    def _decide(self, executor: Executor, rows: Rows, s: int, index: int, traced: list[Source]) -> list[Kind]:
        few = more = traced
        if not all(source.varies for source in traced):
            probe = self._probe(executor)
            try:
                few, more = (probe.sources(rows.x, number)[s, index] for number in (_FEW, _MORE))
            except Exception as error:
                raise self._undecided(s, index, "since the model takes no 2 or 3 rows, which of them it is") from error
        kinds = [_kind(one, other, rows.whole is None) for one, other in zip(few, more, strict=True)]
        decided = [kind for kind in kinds if kind is not None]
        if len(decided) < len(kinds):
            raise self._undecided(s, index, "whether more rows give more slices")
        return decided

    def _probe(self, executor: Executor) -> Probe:
        return Probe(self._pipeline, self._calls, executor, self._varying(executor))

    def _varying(self, executor: Executor) -> list[list[bool]]:
        """Tell for each stage and state variable whether parts of a batch may read different values.

        Seeds and states of rows differ between replicas; what is passed on differs between microbatches.
        """
        return [
            [
                rule in (Rule.SEED, Rule.ROWS) or (self._microbatches > 1 and last is not None and rule is Rule.CHAIN)
                for rule, last in zip(executor.state_rules[s].rules, ends[-1], strict=True)
            ]
            for s, ends in enumerate(executor.ends)
        ]

    def _undecided(self, s: int, index: int, what: str) -> ModelError:
        path = self._pipeline.stages[s].weights[index].path
        return ModelError(
            f"Expected lookups in weight {path!r} by each row's data, or by indices that are the same for all rows: "
            f"{what} cannot be told before the step runs. Make their number known (batches padded to one length, "
            "keras.ops.arange of a Python number), or use SGD without clipping, or one replica without microbatches."
        )


def _kind(few: Source, more: Source, divided: bool) -> Kind | None:
    """Return the kind of a gather that was traced with few and with more rows, or None where it cannot be told.

    Args:
        few, more: Its source in either trace.
        divided: Whether the batch came in shares, which may be padded to lengths of their own.
    """
    if few.varies:
        if few.distinct:
            return Kind.DISTINCT
        # What is looked up by distinct values may meet itself again, in numbers that nobody knows.
        return None if few.merged and few.count is None else Kind.ROWS
    if few.count is None or more.count is None:
        return Kind.DISTINCT if few.distinct else None
    if few.count != more.count:
        return Kind.ROWS
    return Kind.DISTINCT if divided and few.distinct else Kind.SHARED


def _unknown(sizes: list[Any]) -> int:
    return sum(isinstance(size, int) and size < 0 for size in sizes)


def _size(source: Source) -> Any:
    """Return how many slices a gather gave, or -1 where that cannot be had."""
    if source.count is not None:
        return source.count
    return -1 if source.size is None else source.size
