"""Workers connect anew before their communicators drop what a failed step left."""

from types import SimpleNamespace

import pytest

from kparallel.workers import rejoin as module
from kparallel.workers.rejoin import rejoin


@pytest.mark.parametrize(
    ("single", "connected", "expected"),
    [(False, True, ["connections", "communicators"]), (False, False, []), (True, True, [])],
)
def test_only_workers_with_rings_connect_anew(monkeypatch, single, connected, expected):
    done = []
    group = SimpleNamespace(is_single=single)
    connections = SimpleNamespace(renew=lambda of: done.append("connections") if of is group else None)
    monkeypatch.setattr(module, "peer_connections", lambda: connections if connected else None)
    rejoin(SimpleNamespace(group=group, renew=lambda: done.append("communicators")))
    assert done == expected
