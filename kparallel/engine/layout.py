"""Where the replicas of a process run, and how they talk."""

from dataclasses import dataclass

from kparallel.collective.exchange import Exchange
from kparallel.collective.talk import Talk

__all__: list[str] = []


@dataclass(frozen=True)
class Layout:
    """Where the replicas of this process run, and how they talk.

    Args:
        rows: Full device names, one row for each replica of this process, one name for each stage.
        first_replica: Index of the first row's replica among all workers' replicas.
        replicas: How many replicas there are on all workers.
        exchanges: One exchange for each stage: its column.
        talk: How workers talk between steps, or None on one machine.
        compression: The dtype in which gradients travel, or None to leave them as they are.
    """

    rows: tuple[tuple[str, ...], ...]
    first_replica: int
    replicas: int
    exchanges: tuple[Exchange, ...]
    talk: Talk | None = None
    compression: str | None = None

    def leave(self) -> None:
        """After a step that failed: let no other worker wait for this one."""
        for exchange in self.exchanges:
            exchange.leave()
