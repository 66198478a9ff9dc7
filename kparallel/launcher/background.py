"""A gang in a thread of its own, for a program with an event loop and signals of its own, such as a notebook's kernel.

```text
    the calling thread                     the gang's thread
    follow ── writes what comes ◄──pipes── Outlet ◄── Relay ◄── workers
           ── KeyboardInterrupt ─────────► SIGINT  ───────────► workers
```

What the workers print is written by the calling thread, since a notebook shows it in the cell that this thread runs.
"""

import asyncio
import codecs
import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TextIO

from kparallel.launcher.gang import Ending, Gang, Launch, guarding
from kparallel.launcher.output import Outlet

__all__: list[str] = []

_BLOCK = 1 << 16


def follow_gang(launch: Launch, out: TextIO, err: TextIO) -> Ending:
    """Start the workers from another thread, and write what they print until all have ended.

    A KeyboardInterrupt is passed on to the workers and raised again once they have ended; a second one kills them. Any
    other error here, as of a stream that cannot be written, kills them too.

    Args:
        launch: What is started.
        out: Takes their stdout.
        err: Takes their stderr.
    """
    with contextlib.ExitStack() as stack:
        note = stack.enter_context(guarding())
        pipes = [os.pipe() for _ in range(2)]
        streams = {read: stream for (read, _), stream in zip(pipes, (out, err), strict=True)}
        for read in streams:
            stack.callback(os.close, read)
        ending, interrupt = _in_thread(launch, note, [write for _, write in pipes])
        stack.callback(_kill, ending, interrupt)
        _copy(streams, interrupt)
        return ending.result()


def _in_thread(
    launch: Launch, note: Callable[[str], None], descriptors: list[int]
) -> tuple[Future[Ending], Callable[[], None]]:
    """Run a gang in a thread; return what will hold its ending, and what sends its workers SIGINT.

    Args:
        launch: What is started.
        note: Writes the guard a line.
        descriptors: Take the workers' stdout and stderr, and are closed once all have ended.
    """
    ending: Future[Ending] = Future()
    loop = asyncio.new_event_loop()
    files = [os.fdopen(descriptor, "w") for descriptor in descriptors]
    gang = Gang(launch, note, [Outlet(file, lambda error: None) for file in files])

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                ending.set_result(runner.run(gang.run()))
        except BaseException as error:
            ending.set_exception(error)
        finally:
            for file in files:
                file.close()

    def interrupt() -> None:
        with contextlib.suppress(RuntimeError):  # The loop is closed: all have ended.
            loop.call_soon_threadsafe(gang.pass_on, signal.SIGINT)

    # Linux ends a worker with the thread that started it, which therefore waits for all of them.
    threading.Thread(target=run, name="kparallel-gang", daemon=True).start()
    return ending, interrupt


def _copy(streams: Mapping[int, TextIO], interrupt: Callable[[], None]) -> None:
    """Write what comes out of each pipe to its stream, until all pipes have ended.

    Args:
        streams: By the descriptor of a pipe.
        interrupt: Called at a KeyboardInterrupt, which is raised at the end.
    """
    # Workers inherit the encoding of this process's streams. A notebook's stream may have none, and is Unicode.
    encodings = {read: getattr(stream, "encoding", None) or "utf-8" for read, stream in streams.items()}
    # A block may end within a character of several bytes; the decoder keeps its beginning.
    decoders = {read: codecs.getincrementaldecoder(encoding)("replace") for read, encoding in encodings.items()}
    interrupted: KeyboardInterrupt | None = None
    while decoders:
        try:
            ready, _, _ = select.select(list(decoders), [], [])
            for read in ready:
                block = os.read(read, _BLOCK)
                text = decoders[read].decode(block, final=not block)
                # Bytes of no character stand as U+FFFD, which few encodings have; a print must end no training.
                streams[read].write(text.encode(encodings[read], "replace").decode(encodings[read]))
                streams[read].flush()
                if not block:
                    del decoders[read]
        except KeyboardInterrupt as error:
            interrupted = error
            interrupt()
    if interrupted is not None:
        raise interrupted


def _kill(ending: Future[Ending], interrupt: Callable[[], None]) -> None:
    """Kill what still runs, and wait for its end."""
    if not ending.done():
        interrupt()
        interrupt()  # The second one kills.
    ending.exception()
