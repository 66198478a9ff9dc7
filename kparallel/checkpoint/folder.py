"""Folders that are whole or not there: written aside, brought to the disk, and renamed at once.

```text
.checkpoint-00000007.partial/     while it is written: each file, then the manifest, each followed by fsync
checkpoint-00000007/              after one rename
.checkpoint-00000005.removed/     while it is removed
```

Whatever ends the process, and wherever, every folder with a plain name holds all that was written into it. A
folder that another program or a broken disk has damaged since is told by its manifest, which has each file's size.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

__all__: list[str] = []

_MANIFEST = "manifest.json"
_WHOLE = re.compile(r"checkpoint-(\d{8})")
_UNFINISHED = re.compile(r"\.checkpoint-\d{8}\.(?:partial|removed)")

Write = Callable[[Path], None]


def write_folder(directory: Path, files: Mapping[str, Write], keep: int) -> Path:
    """Add a folder to those of a directory, and remove the oldest but `keep`.

    Args:
        directory: Holds the folders of one training; made if it is not there.
        files: For each file's name what writes it.
        keep: How many folders stay.

    Returns:
        The folder.

    Raises:
        OSError: It cannot be written, as on a full disk. The folders that were there are there still.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # One more than the newest, and not the count of folders, because old ones have been removed.
    number = max((_number(folder) for folder in _named(directory)), default=0) + 1
    name = f"checkpoint-{number:08d}"
    partial, whole = directory / f".{name}.partial", directory / name
    clear_unfinished(directory)
    try:
        # The order is the guarantee: first each file's bytes are on the disk, then the manifest's, then the names in
        # the folder; only then does one rename give the folder a name that readers look for. The second sync makes
        # that rename last.
        partial.mkdir()
        for file, write in files.items():
            write(partial / file)
            _sync(partial / file)
        sizes = {file: (partial / file).stat().st_size for file in files}
        (partial / _MANIFEST).write_text(json.dumps(sizes))
        _sync(partial / _MANIFEST)
        _sync(partial)
        partial.rename(whole)
    # Also an interrupt: the process may go on, and the next call would find the folder in its way.
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync(directory)
    # The new folder is on the disk by now, so that there is a whole one at every moment.
    for folder in _named(directory)[keep:]:
        # Renamed first. A process that ends inside `rmtree` would leave a folder with a plain name and half its files.
        removed = directory / f".{folder.name}.removed"
        folder.rename(removed)
        shutil.rmtree(removed)
    return whole


def folders(directory: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folders of a directory, the newest first, each with what is broken of it, or the empty text.

    Args:
        directory: As `write_folder` takes it.
    """
    for folder in _named(directory):
        yield folder, _damage(folder)


def clear_unfinished(directory: Path) -> None:
    """Remove what processes that were killed have left half written or half removed.

    Args:
        directory: As `write_folder` takes it; no other process writes there now.
    """
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir(directory):
            if _UNFINISHED.fullmatch(entry):
                shutil.rmtree(directory / entry, ignore_errors=True)


def _named(directory: Path) -> list[Path]:
    """Return the whole folders, the newest first."""
    try:
        names = [name for name in os.listdir(directory) if _WHOLE.fullmatch(name)]
    except FileNotFoundError:
        return []
    # The numbers have eight digits, so the order of the texts is that of the numbers.
    return [directory / name for name in sorted(names, reverse=True)]


def _number(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _damage(folder: Path) -> str:
    try:
        sizes = json.loads((folder / _MANIFEST).read_text())
        for file, size in sizes.items():
            # Sizes and not checksums, which would read every byte at each start.
            found = (folder / file).stat().st_size
            if found != size:
                return f"{file} has {found} of {size} bytes"
    except (OSError, ValueError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    # A folder can be opened for reading only; `fsync` needs no more.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
