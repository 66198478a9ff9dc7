"""Connecting the workers anew after a step that failed, so that a script that catches the error trains on."""

from kparallel.comm.join import peer_connections
from kparallel.engine.placement import Placement

__all__: list[str] = []


def rejoin(placement: Placement) -> None:
    """Let the workers, all in the same call, connect anew if a step has failed on one of them.

    Args:
        placement: Of the model that is called.

    Raises:
        WorkerError: They cannot.
    """
    connections = peer_connections()
    if not placement.group.is_single and connections is not None:
        connections.renew(placement.group)
        placement.renew()
