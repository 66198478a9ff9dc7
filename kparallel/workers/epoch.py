"""What a worker knows of the data that the present `fit`, `evaluate` or `predict` reads."""

from dataclasses import dataclass, field

from kparallel.workers.drift import BatchDigest

__all__: list[str] = []


@dataclass
class EpochState:
    """What is known of the data of a call of `fit`, `evaluate` or `predict`.

    Args:
        unsized: Whether only the data's end tells how many batches there are, so that the workers have to agree at
            each batch on whether there is one.
        digest: Of the batches that this worker has read.
    """

    unsized: bool = False
    digest: BatchDigest = field(default_factory=BatchDigest)
