"""The one list of benchmarks, and the rows that the page shows first.

Another benchmark is a function of the settings that returns rows, and a line here.
"""

from collections.abc import Callable
from functools import partial

from examples.benchmarks import (
    checkpoint,
    data_parallel,
    executor,
    first_step,
    machines,
    memory,
    overhead,
    overlap,
    own_steps,
    pipeline,
    planned,
    sharded,
    tracing,
    workers,
)
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
    "machines-mlp": partial(machines.rows, "mlp"),
    "machines-transformer": partial(machines.rows, "transformer"),
    "one-replica-mlp": partial(overhead.one_replica, "mlp"),
    "one-replica-tiny": partial(overhead.one_replica, "tiny"),
    "host-time": overhead.host_time,
    "host-time-many": overhead.many_devices,
    "own-steps-tiny": partial(own_steps.rows, "tiny"),
    "own-steps-mlp": partial(own_steps.rows, "mlp"),
    "own-steps-transformer": partial(own_steps.rows, "transformer"),
    "executor-1f1b": partial(executor.rows, "1f1b"),
    "executor-gpipe": partial(executor.rows, "gpipe"),
    "executor-interleaved": partial(executor.rows, "interleaved"),
    "executor-zb_h1": partial(executor.rows, "zb_h1"),
    "tracing": tracing.rows,
    "first-step-dense": partial(first_step.rows, "dense", first_step.DENSE),
    "first-step-own": partial(first_step.rows, "own", first_step.OWN),
    "first-step-densenet": partial(first_step.rows, "densenet", first_step.DENSENET),
    "planner": planned.rows,
    "sharded-mlp": partial(sharded.devices, "mlp"),
    "sharded-embedding": partial(sharded.against_one_replica, "embedding"),
    "sharded-workers-mlp": partial(sharded.workers, "mlp"),
    "sharded-weights-mlp": partial(sharded.weights, "mlp"),
    "sharded-weights-transformer": partial(sharded.weights, "transformer"),
    "checkpoint": checkpoint.rows,
    "overlap-mlp": partial(overlap.rows, "mlp"),
    "overlap-resnet": partial(overlap.rows, "resnet"),
    "overlap-transformer": partial(overlap.rows, "transformer"),
    "memory-mlp": partial(memory.schedules, "mlp"),
    "memory-transformer": partial(memory.schedules, "transformer"),
    "memory-shared-weights": memory.shared_weights,
    "memory-shared-weights-workers": memory.shared_weights_of_workers,
    "recompute-mlp": partial(memory.recomputation, "mlp"),
    "recompute-transformer": partial(memory.recomputation, "transformer"),
}

# Missed goals belong here as well as met ones. The rows against stock Keras are those without its wait after the last
# step: with the wait, the ratio says more about the wait than about the steps.
_STOCK = "data parallel on 2 devices ÷ stock `MirroredStrategy.fit` on the same, without its wait after the last step"
_EARLY = "share of gradient bytes whose reduction can start before the last backward operation"
CHOSEN = (
    f"MLP: {_STOCK}",
    f"ResNet: {_STOCK}",
    f"Transformer: {_STOCK}",
    "MLP: data parallel on 2 devices ÷ one stock device pinned to one core",
    "ResNet: two pinned workers ÷ (2 × one worker)",
    "ResNet: two pinned workers ÷ (2 × one worker): kparallel ÷ PyTorch DDP",
    "MLP: two pinned workers ÷ (2 × one worker)",
    "MLP, two workers: efficiency ÷ c/(c+a), a of the engine's own ring",
    "MLP: pipeline, 2 stages ÷ one device pinned to one core",
    "MLP: pipeline, 2 stages: kparallel ÷ `torch.distributed.pipelining`",
    "Transformer: pipeline, 2 stages: kparallel ÷ `torch.distributed.pipelining`",
    "tiny model: `wrap` with one replica ÷ plain `fit`",
    f"MLP, 2 devices, stages: 1, no XLA: {_EARLY}",
    f"MLP, 2 devices, stages: 1, XLA: {_EARLY}",
    "MLP: live activation bytes, 1F1B ÷ GPipe",
)
