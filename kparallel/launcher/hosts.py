"""A run over several machines whose number may change: one launcher on each, of which that of host 0 coordinates.

```text
host 0: coordinator ◄──hello───  host 1, and every host, 0 too: it is there, and on which port its worker will listen
                     ───start──►  the workers' addresses; it starts its worker
                    ◄─checkpoint  of the chief, which is host 0's
                     ───leave──►  a host is to be added: the workers leave after the next checkpoint
                    ◄──ended───   how its worker ended, and the port of the next
                     ────end───►  another was lost: it ends its worker
                     ────done──►  the run has ended
```

A host that is lost drops out, and one that comes again says hello. Where host 0 is lost, the others wait for its
return: it has the checkpoints, and no two parts of a divided network can go on side by side.
"""

from dataclasses import dataclass

from kparallel.launcher.sizes import Sizes

__all__: list[str] = []


@dataclass(frozen=True)
class Hosts:
    """What the launchers of a run are told.

    Args:
        addresses: `host:port` of each; host 0 listens there.
        index: Which of them this one is.
        sizes: How many may train.
        restarts: How often all workers are started again after a fault of the script's, or where too few are left.
        wait: Seconds to wait for all hosts at the start; then the least number is enough.
        timeout: Seconds to wait for the least number of hosts, and for host 0.
        silence: Seconds after which a host that does not answer any more is lost.
        token: What all launchers know and nobody else; empty for none.
    """

    addresses: tuple[str, ...]
    index: int
    sizes: Sizes
    restarts: int
    wait: float
    timeout: float
    silence: float
    token: str

    @property
    def run(self) -> str:
        """What has to be the same on all hosts."""
        return f"-n {self.sizes.least}:{self.sizes.most} --hosts {','.join(self.addresses)}"

    def name(self, index: int) -> str:
        """Return how a host is called in messages."""
        return f"host {index} ({self.addresses[index]})"

    def worker_address(self, index: int, port: int) -> str:
        """Return where the worker of a host listens."""
        return f"{self.addresses[index].rpartition(':')[0]}:{port}"
