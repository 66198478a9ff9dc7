"""The state of reading data during one call of `fit`, `evaluate` or `predict`."""

from dataclasses import dataclass, field

from kparallel.workers.drift import BatchDigest

__all__: list[str] = []


@dataclass
class EpochState:
    """What a worker knows about the data that a call of `fit`, `evaluate` or `predict` reads.

    Args:
        unsized: Whether the number of batches is unknown. Then the workers compare at each batch whether there is one.
        digest: The digest of the batches that this worker has read.
    """

    unsized: bool = False
    digest: BatchDigest = field(default_factory=BatchDigest)
