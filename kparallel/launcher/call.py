"""The files by which a function reaches the workers and its result comes back, and the module that each worker runs.

```text
    folder/call       sys.path, source lines and the function with its arguments: from `kparallel.launch` to all workers
    folder/result     what worker 0's call returned
    folder/error-1    what worker 1's call raised, if it can be pickled
```
"""

import contextlib
import io
import linecache
import marshal
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

from kparallel.cluster import read_cluster

__all__: list[str] = []


def write_call(folder: Path, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    """Write the function and its arguments.

    Args:
        folder: Where.
        function: What each worker calls.
        arguments: Its positional arguments.

    Raises:
        ImportError: cloudpickle is not installed.
        Exception: What pickling raises, where something cannot be sent.
    """
    # Cells are no files: a worker's traceback has their lines only if they are sent.
    cells = {name: entry for name, entry in linecache.cache.items() if len(entry) == 4 and entry[1] is None}
    try:
        function_bytes = _dumps((function, tuple(arguments)))
    except ImportError:
        raise
    except Exception as error:
        error.add_note("kparallel.launch sends the function with all that it uses. Make what cannot be sent inside it.")
        raise
    # The function is bytes inside: it can be read only once `sys.path` is that of the caller.
    (folder / "call").write_bytes(pickle.dumps((sys.path, cells, function_bytes)))


def read_result(folder: Path) -> Any:
    """Return what worker 0's call returned; None where it did not return."""
    with contextlib.suppress(FileNotFoundError):
        return pickle.loads((folder / "result").read_bytes())
    return None


def read_error(folder: Path, worker: int) -> BaseException | None:
    """Return what a worker's call raised, or None where that cannot be read."""
    try:
        error = pickle.loads((folder / f"error-{worker}").read_bytes())
    except Exception:  # Unpickling calls the exception's own code.
        return None
    return error if isinstance(error, BaseException) else None


def main(folder: Path) -> None:
    """Call the function in a worker."""
    cluster = read_cluster()
    worker = 0 if cluster is None else cluster.index
    path, cells, function_bytes = pickle.loads((folder / "call").read_bytes())
    sys.path[:] = path
    linecache.cache.update(cells)
    try:
        function, arguments = pickle.loads(function_bytes)
        result = function(*arguments)
        if worker == 0:
            (folder / "result").write_bytes(_dumps(result))
    except Exception as error:
        with contextlib.suppress(Exception):  # The launcher has the traceback, as text.
            (folder / f"error-{worker}").write_bytes(_dumps(error))
        raise


def _dumps(value: Any) -> bytes:
    """Pickle a value together with the functions and classes of `__main__`, which no other process can import."""
    try:
        import cloudpickle
    except ImportError as error:
        raise ImportError(
            "kparallel.launch needs cloudpickle. Install it with: pip install 'kparallel[notebooks]'"
        ) from error

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            # cloudpickle leaves out the name of a function's file, which a traceback needs. Both sides run one Python.
            if isinstance(obj, CodeType):
                return marshal.loads, (marshal.dumps(obj),)
            return super().reducer_override(obj)

    buffer = io.BytesIO()
    Pickler(buffer).dump(value)
    return buffer.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
