"""The barrier before the first collective: every worker reaches every other, or says which it misses.

TensorFlow waits for absent workers without a word, and so long that it does not even heed SIGTERM. So the workers
meet on their own ports first, then hand these ports to TensorFlow:

    worker 0            worker 1
    handshake  ────────►           each worker greets every other, and answers what greets it
              ◄────────  handshake
    ready     ────────►           it greeted all and was greeted by all
              ◄────────  ready    all workers said so: both close their ports and start TensorFlow

What is no message of a worker's is dropped, and named. A token that all workers share keeps strangers out.
"""

import asyncio
import concurrent.futures
import contextlib
import errno
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

from kparallel.attendance import DIFFERENCE, Attendance, Strangers, Wait
from kparallel.cluster import Cluster, host_and_port
from kparallel.errors import ClusterError, WorkerError
from kparallel.handshake import Messages, NoMessageError

__all__: list[str] = []

# Seconds between two calls of a peer that does not answer.
_RETRY = 0.2
# Bytes of the longest line. A stranger that never ends its line is dropped there, before it fills the memory.
_LINE = 1 << 20


def to_stderr(line: str) -> None:
    """Print a progress line."""
    print(f"kparallel: {line}", file=sys.stderr, flush=True)


def wait_for_peers(
    cluster: Cluster,
    handshake: Mapping[str, str],
    timeout: float = 300.0,
    progress: Callable[[str], None] = to_stderr,
    token: str = "",
    interval: float = 5.0,
) -> None:
    """Wait until all workers are there and agree; then their ports are free for TensorFlow.

    Args:
        cluster: The workers.
        handshake: Name and text of what must be equal on all workers, such as versions.
        timeout: Seconds to wait.
        progress: Takes lines on what this worker waits for.
        token: What all workers know and nobody else; without one, whoever can connect is believed.
        interval: Seconds from one such line to the next.

    Raises:
        WorkerError: Workers are missing after the timeout, another gave up, or they disagree; the message names them.
        ClusterError: This worker's own address cannot be listened on.
    """

    def meet() -> None:
        asyncio.run(_Rendezvous(cluster, handshake, timeout, progress, token, interval).hold())

    # `asyncio.run` refuses to run inside a running loop. A thread of its own has none.
    if _loop_runs():  # Inside a notebook.
        concurrent.futures.ThreadPoolExecutor(1).submit(meet).result()
    else:
        meet()


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Rendezvous:
    """One worker's side of the barrier."""

    def __init__(
        self,
        cluster: Cluster,
        handshake: Mapping[str, str],
        timeout: float,
        progress: Callable[[str], None],
        token: str,
        interval: float,
    ) -> None:
        self._cluster = cluster
        self._messages = Messages(cluster.index, len(cluster.workers), token)
        self._handshake = {**handshake, "cluster": ", ".join(cluster.workers)}
        self._progress = progress
        self._wait = Wait(timeout, interval)
        self._attendance = Attendance(cluster, self._handshake)
        self._strangers = Strangers()
        # Two workers have two connections, one opened by each of them. A worker tells on those that it opened
        # (`_lines`, by peer), and listens on those that it accepted (`_answer`). `_opened` has both, to be closed at
        # the end.
        self._lines: dict[int, asyncio.StreamWriter] = {}
        self._opened: set[asyncio.StreamWriter] = set()
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._failure = ""
        self._changed = asyncio.Event()

    async def hold(self) -> None:
        """Meet, or raise what kept the workers from it."""
        server = await self._listen()
        # One task for each peer: a peer that is not there yet delays no other.
        self._calls = {peer: asyncio.create_task(self._call(peer)) for peer in self._attendance.unreached}
        try:
            await self._until(lambda: self._attendance.is_complete)
            if difference := self._attendance.difference():  # Every worker sees it: all have greeted all.
                raise WorkerError(difference)
            # Only a second round lets a worker leave: it may have met everybody while another one still waits for its
            # answer.
            await self._tell({"ready": True})
            await self._until(lambda: not self._attendance.unready)
        except WorkerError as error:
            # The others then raise at once and for the same reason, where they would wait until their own timeout.
            await self._tell({"gave_up": str(error)})
            raise
        finally:
            server.close()
            await self._hang_up()

    async def _hang_up(self) -> None:
        for call in self._calls.values():
            # Where the workers did not meet, some tasks still call.
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
            try:
                # Not `wait_for`: in Python 3.11 it loses a cancellation that comes together with what is waited for.
                async with asyncio.timeout(5):
                    reader, writer = await asyncio.open_connection(host, port, limit=_LINE)
                self._opened.add(writer)
                await self._shake_hands(peer, reader, writer)
                return
            except (socket.gaierror, UnicodeError) as error:
                self._attendance.strange(peer, f"its name cannot be resolved here: {error}")
            except (NoMessageError, ValueError) as error:  # The latter is a line without an end.
                self._attendance.strange(peer, f"something else answers there: {error}")
            except (TimeoutError, OSError):
                self._attendance.strange(peer, "")  # Not there yet.
            # Whatever answered, the peer itself may still come: its address may be in use by a process that is about
            # to end.
            await asyncio.sleep(_RETRY)

    async def _shake_hands(self, peer: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Greet whoever answers at a peer's address.

        Raises:
            NoMessageError: It is another.
        """
        self._send(writer, {"handshake": self._handshake})
        try:
            async with asyncio.timeout(5):
                answer = self._messages.read(await reader.readline())
            if answer["worker"] != peer or "handshake" not in answer:
                raise NoMessageError(f"it says that it is worker {answer['worker']}")
        except BaseException:
            writer.close()
            raise
        self._lines[peer] = writer
        self._attendance.reached(peer, answer["handshake"])
        self._changed.set()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a peer's handshake, then listen to what it tells."""
        peer = None
        self._opened.add(writer)
        try:
            if line := await reader.readline():
                peer = self._greeted(line)
            if peer is not None:
                self._send(writer, {"handshake": self._handshake})
                await self._listen_to(peer, reader)
        except (NoMessageError, ValueError) as error:
            self._drop(writer, str(error))
        except OSError:  # It hung up.
            pass
        writer.close()
        # The connection ended before the peer said that it was ready, so its process ended. A launcher may start it
        # again.
        if peer in self._attendance.unready and not self._failure:
            self._calls[peer].cancel()
            self._attendance.hung_up(peer)
            self._calls[peer] = asyncio.create_task(self._call(peer))

    def _greeted(self, line: bytes) -> int | None:
        """Return which peer greets, or None where one comes too late.

        Raises:
            NoMessageError: It is no handshake.
        """
        message = self._messages.read(line)
        if "handshake" not in message:
            raise NoMessageError("it does not greet first")
        peer = int(message["worker"])
        if not self._attendance.heard(peer, message["handshake"]):
            return None
        self._changed.set()
        return peer

    async def _listen_to(self, peer: int, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            told = self._messages.read(line)
            if told["worker"] != peer:
                raise NoMessageError(f"it is worker {peer} and says that it is worker {told['worker']}")
            if "gave_up" in told:
                self._fail(self._why(peer, told["gave_up"]))
            if "ready" in told:
                self._attendance.ready(peer)
            self._changed.set()

    def _why(self, peer: int, text: str) -> str:
        """Return why this worker gives up when another one says that it does."""
        # A difference is raised by a worker that has met all, and names all of them. Here some may still be missing.
        if text.startswith(DIFFERENCE):
            return text
        # A worker that gave up because another one did passes on that one's text, which has the cause's name already.
        passed_on = " gave up: " in text
        who = "" if passed_on else f"Worker {peer} ({self._cluster.workers[peer]}) gave up: "
        return self._attendance.difference() or who + text

    def _drop(self, writer: asyncio.StreamWriter, reason: str) -> None:
        """Note a connection that is dropped; a scan of ports may make many."""
        host = str((writer.get_extra_info("peername") or ("an unknown host",))[0])
        if self._strangers.drop(host, reason):
            self._progress(f"worker {self._cluster.index} dropped a connection from {host}: {reason}")

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason
        self._changed.set()

    async def _until(self, done: Callable[[], bool]) -> None:
        while not self._failure and not done():
            self._changed.clear()
            missing, difference = self._attendance.missing(), self._attendance.difference()
            if self._wait.is_over:
                raise WorkerError(
                    f"Worker {self._cluster.index} waited {self._wait.timeout:g} s for {missing}. Is it started, "
                    "with the same list of addresses, and does no firewall stand between? "
                    f"kparallel.init(timeout=seconds) waits longer. {difference}{self._strangers}".rstrip()
                )
            if self._wait.is_to_be_told():
                self._progress(f"worker {self._cluster.index} waits for {missing}, {self._wait}")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(1.0, max(self._wait.left, 0.0)))
        if self._failure:
            raise WorkerError(self._failure)

    async def _tell(self, message: dict[str, Any]) -> None:
        for line in list(self._lines.values()):  # A peer that is reached meanwhile adds its own.
            with contextlib.suppress(OSError):
                self._send(line, message)
                await asyncio.wait_for(line.drain(), 5)

    def _send(self, writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
        connection = writer.get_extra_info("socket")
        # Without Nagle's delay: the messages are short, and each is waited for.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        writer.write(self._messages.write(message))
