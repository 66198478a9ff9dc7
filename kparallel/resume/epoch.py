"""What is known of the data that the present `fit`, `evaluate` or `predict` reads."""

from dataclasses import dataclass, field
from typing import Any

from kparallel.data.digest import BatchDigest
from kparallel.data.shards import Shards
from kparallel.data.shuffled import ShuffledArrays
from kparallel.resume.progress import Progress

__all__: list[str] = []


@dataclass
class EpochState:
    """What is known of the data of a call of `fit`, `evaluate` or `predict`.

    Args:
        unsized: Whether only the data's end tells how many batches there are, so that the workers have to agree at
            each batch on whether there is one.
        digest: Of the batches that this worker has read.
        order: The data of the present `fit`, where their order is a function of a seed and the epoch, else None.
        only_epochs: Why the present `fit` can be resumed at an epoch's start only; empty if it can be within one.
        follows_data: Whether the present `fit` is to know its place in the data, and does not yet.
        progress: That place, or None.
        resumed: The training state that the chief has read from a checkpoint, or None.
        logs: Of the step behind which the checkpoint was written from which the present `fit` goes on within an epoch:
            those of the epoch, if that was its last step.
        callbacks: Of the present `fit`, where what they have counted is written with its checkpoints.
    """

    unsized: bool = False
    digest: BatchDigest = field(default_factory=BatchDigest)
    order: ShuffledArrays | Shards | None = None
    only_epochs: str = ""
    follows_data: bool = False
    progress: Progress | None = None
    resumed: dict[str, Any] | None = None
    logs: dict[str, Any] = field(default_factory=dict)
    callbacks: list[Any] = field(default_factory=list)
