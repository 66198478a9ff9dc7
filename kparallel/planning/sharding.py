"""Whether a step is faster where the replicas share the optimizer out: what each saves against what travels more."""

from dataclasses import dataclass

__all__: list[str] = []

# Bytes of memory that each replica has to save in a step: 0.4 ms of a memory of 20 GB/s. The benchmark of this rule has
# models on both sides. Smaller ones gain less than the host's time for a step varies.
WORTH = 2**23
# How many bytes a processor reads and writes in memory while one byte travels between workers, on a network of
# 10 Gbit/s beside a memory of 20 GB/s. A faster network makes sharing out pay earlier.
LINK = 16


@dataclass(frozen=True)
class TrainedBytes:
    """The weights of a model that are trained, in bytes.

    Args:
        dense: Of those whose gradient is a tensor.
        sliced: Of the tables whose gradient travels as the rows that a batch touched.
    """

    dense: float
    sliced: float = 0


def update_bytes(trained: TrainedBytes, slots: float) -> float:
    """Return the bytes that an update of all weights reads and writes.

    It reads gradient, weight and slots, and writes weight and slots. Of a table Keras's optimizers with slots move
    every row, and those without slots only the rows that a batch touched, which count for nothing here.

    Args:
        trained: The weights.
        slots: How many variables the optimizer keeps for each weight.

    Example:
        >>> update_bytes(TrainedBytes(dense=10, sliced=100), slots=2), update_bytes(TrainedBytes(0, 100), slots=0)
        (670, 0)
    """
    return trained.dense * (3 + 2 * slots) + (trained.sliced * (2 + 2 * slots) if slots else 0)


def saved_bytes(trained: TrainedBytes, slots: float, replicas: int, workers: int = 1) -> float:
    """Return the bytes of memory that each replica reads and writes less in a step; negative where it is more.

    A dense gradient's sum goes to each replica without shards, the new weight with them: as many bytes. The rows of a
    table's gradient go to each replica either way, and with shards the whole table goes back to the others as well.

    Args:
        trained: The weights.
        slots: How many variables the optimizer keeps for each weight.
        replicas: The number of replicas on all workers.
        workers: The number of workers. Default 1.

    Example:
        >>> saved_bytes(TrainedBytes(dense=10, sliced=100), slots=2, replicas=2)
        235.0
        >>> saved_bytes(TrainedBytes(dense=10, sliced=100), slots=2, replicas=2, workers=2) < 0
        True
    """
    elsewhere = 1 - 1 / replicas
    passes = 2 if workers == 1 else 2 + LINK  # Read and written, and sent where another worker has it.
    return elsewhere * (update_bytes(trained, slots) - passes * trained.sliced)


def sharding_pays(trained: TrainedBytes, slots: float, replicas: int, workers: int = 1) -> bool:
    """Tell whether `shard="optimizer"` makes a step faster; arguments as of `saved_bytes`.

    Example:
        >>> sharding_pays(TrainedBytes(dense=4e7), slots=1, replicas=2), sharding_pays(TrainedBytes(4e7), 1, replicas=1)
        (True, False)
    """
    return saved_bytes(trained, slots, replicas, workers) >= WORTH
