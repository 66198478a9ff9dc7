"""The one list of benchmarks. Another one is a function of the settings that returns rows, and a line here."""

from collections.abc import Callable
from functools import partial

from examples.benchmarks import data_parallel, executor, memory, overhead, overlap, pipeline, tracing, workers
from examples.benchmarks.row import Row, Settings

__all__: list[str] = []

BENCHMARKS: dict[str, Callable[[Settings], list[Row]]] = {
    "data-parallel-mlp": partial(data_parallel.rows, "mlp"),
    "data-parallel-resnet": partial(data_parallel.rows, "resnet"),
    "data-parallel-transformer": partial(data_parallel.rows, "transformer"),
    "data-parallel-mlp-default-malloc": partial(data_parallel.rows, "mlp", allocator="default"),
    "data-parallel-mlp-legacy": partial(data_parallel.legacy, "mlp"),
    "workers-resnet": partial(workers.rows, "resnet"),
    "workers-transformer": partial(workers.rows, "transformer"),
    "workers-mlp": partial(workers.small_arithmetic, "mlp"),
    "pipeline-mlp": partial(pipeline.rows, "mlp"),
    "pipeline-transformer": partial(pipeline.rows, "transformer"),
    "one-replica-mlp": partial(overhead.one_replica, "mlp"),
    "one-replica-tiny": partial(overhead.one_replica, "tiny"),
    "host-time": overhead.host_time,
    "executor-1f1b": partial(executor.rows, "1f1b"),
    "executor-gpipe": partial(executor.rows, "gpipe"),
    "tracing": tracing.rows,
    "overlap-mlp": partial(overlap.rows, "mlp"),
    "overlap-resnet": partial(overlap.rows, "resnet"),
    "overlap-transformer": partial(overlap.rows, "transformer"),
    "memory-mlp": partial(memory.schedules, "mlp"),
    "memory-transformer": partial(memory.schedules, "transformer"),
    "recompute-mlp": partial(memory.recomputation, "mlp"),
    "recompute-transformer": partial(memory.recomputation, "transformer"),
}
