"""A thread that writes one checkpoint while training goes on."""

import threading
from collections.abc import Callable
from pathlib import Path

__all__: list[str] = []


class Writer:
    """Writes in the background, one thing after another. The program's end waits for what is being written.

    Args:
        directory: Where it writes.
    """

    def __init__(self, directory: Path) -> None:
        self._name = f"kparallel-checkpoint {directory.absolute()}"
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def is_busy(self) -> bool:
        """Whether something is being written."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, write: Callable[[], object]) -> None:
        """Begin to write, after what is being written.

        Args:
            write: Writes.
        """
        self.wait()
        # Not a daemon: the interpreter waits for it at its end, so that the last checkpoint of a script is whole. The
        # name has the folder, by which another writer finds it.
        self._thread = threading.Thread(target=self._carry_out, args=(write,), name=self._name)
        self._thread.start()

    def wait_for_all(self) -> None:
        """Wait until nothing is being written to the directory, by a writer of a training that failed either."""
        for thread in threading.enumerate():
            if thread.name == self._name:
                thread.join()

    def wait(self) -> None:
        """Wait until nothing is being written by this writer."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def failure(self) -> Exception | None:
        """Return, once, the last error of what was written; wait for nothing."""
        error, self._error = self._error, None
        return error

    def _carry_out(self, write: Callable[[], object]) -> None:
        try:
            write()
        # The thread has nobody to raise to. The training asks at its next checkpoint.
        except Exception as error:
            self._error = error
