"""The barrier before the first collective: every worker reaches every other, or says which it misses.

TensorFlow waits for absent workers without a word, and so long that it does not even heed SIGTERM. So the workers
meet on their own ports first, then hand these ports to TensorFlow:

    worker 0            worker 1
    handshake  ────────►           each worker greets every other, and answers what greets it
              ◄────────  handshake
    ready     ────────►           it greeted all and was greeted by all
              ◄────────  ready    all workers said so: both close their ports and start TensorFlow
"""

import asyncio
import concurrent.futures
import contextlib
import errno
import json
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from kparallel.cluster import Cluster, host_and_port
from kparallel.errors import ClusterError, WorkerError

__all__: list[str] = []

_RETRY = 0.2
_PROGRESS = 5.0
_LINE = 1 << 20


def to_stderr(line: str) -> None:
    """Print a progress line."""
    print(f"kparallel: {line}", file=sys.stderr, flush=True)


def wait_for_peers(
    cluster: Cluster,
    handshake: Mapping[str, str],
    timeout: float = 300.0,
    progress: Callable[[str], None] = to_stderr,
) -> None:
    """Wait until all workers are there and agree; then their ports are free for TensorFlow.

    Args:
        cluster: The workers.
        handshake: Name and text of what must be equal on all workers, such as versions.
        timeout: Seconds to wait.
        progress: Takes a line every few seconds.

    Raises:
        WorkerError: Workers are missing after the timeout, another gave up, or they disagree; the message names them.
        ClusterError: This worker's own address cannot be listened on.
    """

    def meet() -> None:
        asyncio.run(_Rendezvous(cluster, handshake, timeout, progress).hold())

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        meet()
    else:  # Inside a notebook, whose loop runs already.
        concurrent.futures.ThreadPoolExecutor(1).submit(meet).result()


class _Rendezvous:
    """One worker's side of the barrier."""

    def __init__(
        self, cluster: Cluster, handshake: Mapping[str, str], timeout: float, progress: Callable[[str], None]
    ) -> None:
        self._cluster = cluster
        self._handshake = {**handshake, "cluster": ", ".join(cluster.workers)}
        self._timeout = timeout
        self._progress = progress
        peers = [index for index in range(len(cluster.workers)) if index != cluster.index]
        self._unreached = set(peers)
        self._not_heard = set(peers)
        self._unready = set(peers)
        self._handshakes: dict[int, Mapping[str, str]] = {cluster.index: self._handshake}
        self._strange: dict[int, str] = {}
        self._lines: dict[int, asyncio.StreamWriter] = {}
        self._opened: set[asyncio.StreamWriter] = set()
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._failure = ""
        self._changed = asyncio.Event()

    async def hold(self) -> None:
        """Meet, or raise what kept the workers from it."""
        self._start = self._shown = time.monotonic()
        server = await self._listen()
        self._calls = {peer: asyncio.create_task(self._call(peer)) for peer in self._unreached}
        try:
            await self._until(lambda: not self._unreached and not self._not_heard)
            if difference := self._difference():  # Every worker sees it: all have greeted all.
                raise WorkerError(difference)
            await self._tell({"ready": True})
            await self._until(lambda: not self._unready)
        except WorkerError as error:
            await self._tell({"gave_up": str(error)})
            raise
        finally:
            server.close()
            await self._hang_up()

    async def _hang_up(self) -> None:
        for call in self._calls.values():
            call.cancel()
        await asyncio.gather(*self._calls.values(), return_exceptions=True)
        await asyncio.sleep(0.01)  # What was being accepted when the port closed has come in now.
        opened = list(self._opened)
        for writer in opened:
            writer.close()
        for writer in opened:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), 1)

    async def _listen(self) -> asyncio.Server:
        _, port = host_and_port(self._cluster.address)
        try:
            # On all of the machine's addresses, as TensorFlow will: what would keep TensorFlow from it shows now.
            return await asyncio.start_server(self._answer, None, port, limit=_LINE)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = "another process listens there. Is a run from before still there? End it, or use another port"
            raise ClusterError(
                f"Worker {self._cluster.index} cannot listen on {self._cluster.address}: {reason if taken else error}."
            ) from error

    async def _call(self, peer: int) -> None:
        """Greet a peer, again and again until it answers."""
        host, port = host_and_port(self._cluster.workers[peer])
        while True:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                opening = asyncio.open_connection(host, port, limit=_LINE)
                reader, writer = await asyncio.wait_for(opening, 5)
                self._opened.add(writer)
                if await self._shake_hands(peer, reader, writer):
                    return
            await asyncio.sleep(_RETRY)

    async def _shake_hands(self, peer: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        _send(writer, {"worker": self._cluster.index, "handshake": self._handshake})
        answer = _read(await asyncio.wait_for(reader.readline(), 5))
        if answer is None or answer.get("worker") != peer:
            self._strange[peer] = "something else answers there"
            writer.close()
            return False
        self._handshakes[peer] = answer["handshake"]
        self._strange.pop(peer, None)
        self._lines[peer] = writer
        self._unreached.discard(peer)
        self._changed.set()
        return True

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a peer's handshake, then listen to what it tells."""
        peer = None
        self._opened.add(writer)
        with contextlib.suppress(OSError, ValueError):
            message = _read(await reader.readline())
            if message is None or message.get("worker") not in self._not_heard | self._unready:
                writer.close()
                return
            peer = int(message["worker"])
            _send(writer, {"worker": self._cluster.index, "handshake": self._handshake})
            self._handshakes[peer] = message["handshake"]
            self._not_heard.discard(peer)
            self._changed.set()
            while told := _read(await reader.readline()):
                if "gave_up" in told:
                    passed_on = " gave up: " in told["gave_up"]
                    who = "" if passed_on else f"Worker {peer} ({self._cluster.workers[peer]}) gave up: "
                    self._fail(self._difference() or who + told["gave_up"])
                self._unready.discard(peer)
                self._changed.set()
        if peer in self._unready and not self._failure:  # It hung up: it may come again, restarted.
            self._calls[peer].cancel()
            self._not_heard.add(peer)
            self._unreached.add(peer)
            self._calls[peer] = asyncio.create_task(self._call(peer))

    def _difference(self) -> str:
        """Return in words what the workers met so far disagree on, or nothing."""
        for name, own in self._handshake.items():
            texts = {index: handshake.get(name) for index, handshake in sorted(self._handshakes.items())}
            if any(text != own for text in texts.values()):
                listed = ", ".join(f"worker {index}: {text}" for index, text in texts.items())
                return (
                    f"Expected the same {name} on all workers, received {listed}. Start every worker with the same "
                    "packages and addresses."
                )
        return ""

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason
        self._changed.set()

    async def _until(self, done: Callable[[], bool]) -> None:
        while not self._failure and not done():
            self._changed.clear()
            now = time.monotonic()
            if now - self._start >= self._timeout:
                raise WorkerError(
                    f"Worker {self._cluster.index} waited {self._timeout:g} s for {self._missing()}. Is it started, "
                    "with the same list of addresses, and does no firewall stand between? "
                    f"kparallel.init(timeout=seconds) waits longer. {self._difference()}".rstrip()
                )
            if now - self._shown >= _PROGRESS:
                self._shown = now
                waited = f"{now - self._start:.0f} s of {self._timeout:g} s"
                self._progress(f"worker {self._cluster.index} waits for {self._missing()}, {waited}")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(1.0, self._start + self._timeout - now))
        if self._failure:
            raise WorkerError(self._failure)

    def _missing(self) -> str:
        peers = sorted(self._unreached | self._not_heard or self._unready)
        texts = []
        for peer in peers:
            state = "" if peer in self._unreached else "it cannot reach this worker yet"
            state = state if peer in self._not_heard else "it still waits for others"
            state = self._strange.get(peer, "" if peer in self._unreached else state)
            texts.append(f"worker {peer} ({self._cluster.workers[peer]}{': ' + state if state else ''})")
        return ", ".join(texts)

    async def _tell(self, message: dict[str, Any]) -> None:
        for line in list(self._lines.values()):  # A peer that is reached meanwhile adds its own.
            with contextlib.suppress(OSError):
                _send(line, message)
                await asyncio.wait_for(line.drain(), 5)


def _send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    writer.write(json.dumps(message).encode() + b"\n")


def _read(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None
