"""The one list of benchmarks, table by table, and the rows that the page shows first.

Another benchmark is a function of the settings that returns rows, and a line here. Arms of one benchmark take turns;
a table is what one command measures.
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

Benchmark = Callable[[Settings], list[Row]]

# By the name of a table: its title, and its benchmarks by their names. Each table is one run, of at most an hour.
TABLES: dict[str, tuple[str, dict[str, Benchmark]]] = {
    "data-parallel": (
        "Replicas on one machine",
        {
            "data-parallel-mlp": partial(data_parallel.rows, "mlp"),
            "data-parallel-resnet": partial(data_parallel.rows, "resnet"),
            "data-parallel-transformer": partial(data_parallel.rows, "transformer"),
            "data-parallel-mlp-default-malloc": partial(data_parallel.rows, "mlp", allocator="default"),
            "data-parallel-mlp-legacy": partial(data_parallel.legacy, "mlp"),
            "overlap-mlp": partial(overlap.rows, "mlp"),
            "overlap-resnet": partial(overlap.rows, "resnet"),
            "overlap-transformer": partial(overlap.rows, "transformer"),
        },
    ),
    "more": (
        "Four models that no goal was tuned on",
        {
            "more-recommender": partial(data_parallel.more, "recommender", trial=2.5),
            "more-lstm": partial(data_parallel.more, "lstm", trial=2.3),
            "more-unet": partial(data_parallel.more, "unet", trial=2.0),
            "more-mobilenet": partial(data_parallel.more, "mobilenet", trial=1.25),
        },
    ),
    "workers": (
        "Replicas over workers",
        {
            "workers-resnet": partial(workers.rows, "resnet"),
            "workers-transformer": partial(workers.rows, "transformer"),
            "workers-mlp": partial(workers.small_arithmetic, "mlp"),
        },
    ),
    "pipeline": (
        "Stages on one machine",
        {
            "pipeline-mlp": partial(pipeline.rows, "mlp"),
            "pipeline-transformer": partial(pipeline.rows, "transformer"),
            "memory-mlp": partial(memory.schedules, "mlp"),
            "memory-transformer": partial(memory.schedules, "transformer"),
            "recompute-mlp": partial(memory.recomputation, "mlp"),
            "recompute-transformer": partial(memory.recomputation, "transformer"),
        },
    ),
    "machines": (
        "Stages on several machines",
        {
            "machines-mlp": partial(machines.rows, "mlp"),
            "machines-transformer": partial(machines.rows, "transformer"),
        },
    ),
    "shards": (
        "What replicas share out",
        {
            "sharded-mlp": partial(sharded.devices, "mlp"),
            "sharded-embedding": partial(sharded.against_one_replica, "embedding"),
            "sharded-rule": sharded.rule,
            "sharded-workers-mlp": partial(sharded.workers, "mlp"),
            "sharded-weights-mlp": partial(sharded.weights, "mlp"),
            "sharded-weights-transformer": partial(sharded.weights, "transformer"),
            "memory-shared-weights": memory.shared_weights,
            "memory-shared-weights-workers": memory.shared_weights_of_workers,
        },
    ),
    "first-steps": (
        "The first step",
        {
            "tracing": tracing.rows,
            "first-step-dense": partial(first_step.rows, "dense", first_step.DENSE),
            "first-step-own": partial(first_step.rows, "own", first_step.OWN),
            "first-step-densenet": partial(first_step.rows, "densenet", first_step.DENSENET),
        },
    ),
    "overhead": (
        "What a step costs the host",
        {
            "one-replica-mlp": partial(overhead.one_replica, "mlp"),
            "one-replica-tiny": partial(overhead.one_replica, "tiny"),
            "host-time": overhead.host_time,
            "host-time-many": overhead.many_devices,
            "own-steps-tiny": partial(own_steps.rows, "tiny"),
            "own-steps-mlp": partial(own_steps.rows, "mlp"),
            "own-steps-transformer": partial(own_steps.rows, "transformer"),
        },
    ),
    "executor": (
        "The executor alone",
        {
            "executor-1f1b": partial(executor.rows, "1f1b"),
            "executor-gpipe": partial(executor.rows, "gpipe"),
            "executor-interleaved": partial(executor.rows, "interleaved"),
            "executor-zb_h1": partial(executor.rows, "zb_h1"),
            "executor-zb_v": partial(executor.rows, "zb_v"),
        },
    ),
    "planner": (
        "The planner",
        {
            "planner": planned.rows,
        },
    ),
    "checkpoints": (
        "Checkpoints",
        {
            "checkpoint": checkpoint.rows,
        },
    ),
}
BENCHMARKS: dict[str, Benchmark] = {name: run for _, runs in TABLES.values() for name, run in runs.items()}

# Missed goals belong here as well as met ones. The rows against stock Keras are those without its wait after the last
# step: with the wait, the ratio says more about the wait than about the steps.
_STOCK = "data parallel on 2 devices ÷ stock `MirroredStrategy.fit` on the same, without its wait after the last step"
_APART = "data parallel on 2 devices ÷ two replicas that tell each other nothing"
_EARLY = "share of gradient bytes whose reduction can start before the last backward operation"
CHOSEN = (
    f"MLP: {_STOCK}",
    f"ResNet: {_STOCK}",
    f"Transformer: {_STOCK}",
    "MLP: data parallel on 2 devices ÷ one stock device pinned to one core",
    f"MLP: {_APART}",
    f"ResNet: {_APART}",
    f"Transformer: {_APART}",
    "MLP: two replicas, optimizer shared out ÷ one stock device pinned to one core",
    "live bytes of a worker at the peak of a step, weights shared out ÷ each worker has all",
    "ResNet: two pinned workers ÷ (2 × one worker)",
    "ResNet: two pinned workers ÷ (2 × one worker): kparallel ÷ PyTorch DDP",
    "MLP: two pinned workers ÷ (2 × one worker)",
    "MLP, two workers: efficiency ÷ c/(c+a), a of the engine's own ring",
    "MLP: pipeline, 2 stages ÷ one device pinned to one core",
    "MLP: pipeline, 2 stages: kparallel ÷ `torch.distributed.pipelining`",
    "Transformer: pipeline, 2 stages: kparallel ÷ `torch.distributed.pipelining`",
    "MLP: 2 stages in two pinned processes of one program ÷ `torch.distributed.pipelining` in two",
    "Transformer: 2 stages in two pinned processes of one program ÷ `torch.distributed.pipelining` in two",
    "MLP: 2 stages in two pinned processes of one program ÷ the plan in one process",
    "planner: rank correlation of predicted and measured times",
    "planner: median error",
    "tiny model: `wrap` with one replica ÷ plain `fit`",
    f"MLP, 2 devices, stages: 1, no XLA: {_EARLY}",
    f"MLP, 2 devices, stages: 1, XLA: {_EARLY}",
    "MLP: live activation bytes, 1F1B ÷ GPipe",
)
