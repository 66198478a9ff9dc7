"""Decides the `Kind` of each gather whose gradient is a `tf.IndexedSlices`.

A kind is decided when the step is traced, because it decides which collectives the step contains. The graph shows where
the indices of a gather come from. Where that does not suffice, the stages are traced with two numbers of rows, and the
numbers of slices are compared:

```text
indices vary between parts   distinct                      DISTINCT
                             else                          ROWS
indices are the same         2 and 3 rows: 5, 5 slices     SHARED
                             2 and 3 rows: 8, 12 slices    ROWS
                             unknown, but distinct         DISTINCT
```
"""

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

# The numbers of rows that are compared. They are constants, because every replica has to decide alike. Neither is 1: a
# single row might be broadcast.
_FEW, _MORE = 2, 3


class Kinds:
    """Sorts slices by the kinds of their gathers. The kinds of a weight are decided once.

    All replicas decide alike: they decide from the graph of the stages, which is the same for any number of rows.

    Args:
        pipeline: The stages.
        functions: The function of each stage.
        microbatches: The number of microbatches of a share.
        replicas: The number of replicas.
    """

    def __init__(
        self, pipeline: Pipeline, functions: Sequence[StageFunction], microbatches: int, replicas: int
    ) -> None:
        self._pipeline = pipeline
        self._functions = functions
        self._microbatches = microbatches
        self._undivided = microbatches * replicas == 1
        # By (stage, weight, whether the batch came in shares of its own): the kind of each gather.
        self._decided: dict[tuple[int, int, bool], list[Kind]] = {}

    def sorter(self, result: ReplicaResult, share: Share, linear: bool) -> Sort:
        """Return a function from a stage and the index of a weight to the weight's sorted slices.

        Args:
            result: The result of this replica's passes.
            share: This replica's rows.
            linear: Whether the optimizer is linear in the gradient; then the slices need no kinds.
        """

        def sort(s: int, index: int) -> SlicedGradient:
            if linear or self._undivided:
                return unsorted(result.gradients[s][index])
            return self._sorted(result, share, s, index)

        return sort

    def _sorted(self, result: ReplicaResult, share: Share, s: int, index: int) -> SlicedGradient:
        """Return the slices of one weight of one stage by their kind.

        Raises:
            ModelError: A kind cannot be decided from the graph.
        """
        slices: MicrobatchSlices = result.gradients[s][index]
        traced = self._traced(result, share, s, index)
        divided = share.whole is None
        if (s, index, divided) not in self._decided:
            self._decided[s, index, divided] = self._decide(result, share, s, index, traced[0])
        kinds = self._decided[s, index, divided]
        if all(kind is Kind.ROWS for kind in kinds):
            return unsorted(slices)
        sizes = [[_size(source) for source in of_microbatch] for of_microbatch in traced]
        # `tf.split` finds one unknown size as the rest. Each microbatch needs its slices divided by gather.
        if any(len(size) != len(kinds) or _unknown(size) > 1 for size in sizes):
            raise self._undecided(s, index, "how many slices each gives")
        return by_kind(slices, kinds, sizes)

    def _traced(self, result: ReplicaResult, share: Share, s: int, index: int) -> list[list[Source]]:
        """Return the sources of the slices, `[m][gather]`."""
        slices: MicrobatchSlices = result.gradients[s][index]
        if tf.executing_eagerly():  # The slices have no graph; trace the stages to get one.
            probe = self._probe(result)
            return [probe.sources(share.x, count or row_count(share.x))[s, index] for count in slices.rows]
        varying = varying_names(share.x, result.start, self._varying(result))
        return [sources(part.indices, varying) for part in slices.parts]

    def _decide(self, result: ReplicaResult, share: Share, s: int, index: int, traced: list[Source]) -> list[Kind]:
        """Return the kind of each gather of one weight."""
        few_rows = more_rows = traced
        # Indices that vary between parts give more slices for more rows. For all others the probe compares.
        if not all(source.varies for source in traced):
            probe = self._probe(result)
            try:
                few_rows, more_rows = (probe.sources(share.x, number)[s, index] for number in (_FEW, _MORE))
            except Exception as error:
                raise self._undecided(s, index, "since the model takes no 2 or 3 rows, which of them it is") from error
        kinds = [
            _kind(in_few, in_more, share.whole is None) for in_few, in_more in zip(few_rows, more_rows, strict=True)
        ]
        decided = [kind for kind in kinds if kind is not None]
        if len(decided) < len(kinds):
            raise self._undecided(s, index, "whether more rows give more slices")
        return decided

    def _probe(self, result: ReplicaResult) -> Probe:
        return Probe(self._pipeline, self._functions, result, self._varying(result))

    def _varying(self, result: ReplicaResult) -> list[list[bool]]:
        """Return, `[s][v]`, whether parts of a batch may read different values of a state variable.

        Seeds and the states of rows differ between replicas. Chained state differs between microbatches.
        """
        return [
            [
                rule in (Rule.SEED, Rule.ROWS) or (self._microbatches > 1 and end is not None and rule is Rule.CHAIN)
                for rule, end in zip(result.rules[s].rules, ends[-1], strict=True)
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
    """Return the kind of a gather that was traced with few and with more rows, or None where the graph leaves it open.

    Args:
        few, more: The gather's source in either trace.
        divided: Whether each replica reads a part of the batch from a dataset of its own.
    """
    if few.varies:
        if few.distinct:
            return Kind.DISTINCT
        # Indices that are computed from distinct values of the data, such as those of a deduplicated lookup: how many
        # slices one device would have depends on values that the parts have in common.
        return None if few.merged and few.count is None else Kind.ROWS
    # From here on the indices do not depend on the data, so the number of slices decides.
    if few.count is None or more.count is None:
        return Kind.DISTINCT if few.distinct else None
    if few.count != more.count:
        return Kind.ROWS
    # Parts that are padded to lengths of their own look up ranges of different lengths, `arange(length)`: the slices of
    # one index are summed, and need not have the same number in each part.
    return Kind.DISTINCT if divided and few.distinct else Kind.SHARED


def _unknown(sizes: list[Any]) -> int:
    return sum(isinstance(size, int) and size < 0 for size in sizes)


def _size(source: Source) -> Any:
    """Return the number of slices of a gather, as an int, a scalar tensor, or -1 where neither is available."""
    if source.count is not None:
        return source.count
    return -1 if source.size is None else source.size
