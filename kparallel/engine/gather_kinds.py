"""Decides the kind of each gather whose gradient comes as slices."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kparallel.data.share import Share, row_count
from kparallel.engine.all_reduce import Sort
from kparallel.engine.gather_probe import Probe, varying_names
from kparallel.engine.gather_sources import Source, sources
from kparallel.engine.replica_result import ReplicaResult
from kparallel.engine.sparse_gradients import Kind, MicrobatchSlices, SlicedGradient, by_kind, unsorted
from kparallel.engine.stage_function import StageFunction
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
        functions: The stages, as they are called.
        microbatches: Into how many microbatches a share is divided.
        replicas: Into how many shares a batch is divided.
    """

    def __init__(
        self, pipeline: Pipeline, functions: Sequence[StageFunction], microbatches: int, replicas: int
    ) -> None:
        self._pipeline = pipeline
        self._functions = functions
        self._microbatches = microbatches
        self._undivided = microbatches * replicas == 1
        self._decided: dict[tuple[int, int, bool], list[Kind]] = {}

    def sorter(self, result: ReplicaResult, share: Share, linear: bool) -> Sort:
        """Return what sorts the slices of a weight, by its stage and index.

        Args:
            result: What the passes of this replica left.
            share: This replica's rows.
            linear: Whether the optimizer only scales gradients and adds them, so that all slices may stay apart.
        """

        def sort(s: int, index: int) -> SlicedGradient:
            if linear or self._undivided:
                return unsorted(result.gradients[s][index])
            return self._sorted(result, share, s, index)

        return sort

    def _sorted(self, result: ReplicaResult, share: Share, s: int, index: int) -> SlicedGradient:
        """Return the slices of one weight of one stage by their kind.

        Raises:
            ModelError: A kind cannot be told.
        """
        slices: MicrobatchSlices = result.gradients[s][index]
        traced = self._traced(result, share, s, index)
        divided = share.whole is None
        if (s, index, divided) not in self._decided:
            self._decided[s, index, divided] = self._decide(result, share, s, index, traced[0])
        kinds = self._decided[s, index, divided]
        if all(kind is Kind.ROWS for kind in kinds):
            return unsorted(slices)
        sizes = [[_size(source) for source in each] for each in traced]
        if any(len(size) != len(kinds) or _unknown(size) > 1 for size in sizes):
            raise self._undecided(s, index, "how many slices each gives")
        return by_kind(slices, kinds, sizes)

    def _traced(self, result: ReplicaResult, share: Share, s: int, index: int) -> list[list[Source]]:
        """Return the sources of each microbatch's slices."""
        slices: MicrobatchSlices = result.gradients[s][index]
        if tf.executing_eagerly():  # There is no graph to look at.
            probe = self._probe(result)
            return [probe.sources(share.x, count or row_count(share.x))[s, index] for count in slices.rows]
        varying = varying_names(share.x, result.start, self._varying(result))
        return [sources(part.indices, varying) for part in slices.parts]

    def _decide(self, result: ReplicaResult, share: Share, s: int, index: int, traced: list[Source]) -> list[Kind]:
        few = more = traced
        if not all(source.varies for source in traced):
            probe = self._probe(result)
            try:
                few, more = (probe.sources(share.x, number)[s, index] for number in (_FEW, _MORE))
            except Exception as error:
                raise self._undecided(s, index, "since the model takes no 2 or 3 rows, which of them it is") from error
        kinds = [_kind(one, other, share.whole is None) for one, other in zip(few, more, strict=True)]
        decided = [kind for kind in kinds if kind is not None]
        if len(decided) < len(kinds):
            raise self._undecided(s, index, "whether more rows give more slices")
        return decided

    def _probe(self, result: ReplicaResult) -> Probe:
        return Probe(self._pipeline, self._functions, result, self._varying(result))

    def _varying(self, result: ReplicaResult) -> list[list[bool]]:
        """Tell for each stage and state variable whether parts of a batch may read different values.

        Seeds and states of rows differ between replicas; what is passed on differs between microbatches.
        """
        return [
            [
                rule in (Rule.SEED, Rule.ROWS) or (self._microbatches > 1 and last is not None and rule is Rule.CHAIN)
                for rule, last in zip(result.rules[s].rules, ends[-1], strict=True)
            ]
            for s, ends in enumerate(result.ends)
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
