"""Folders that are whole or not there: written aside, brought to the disk, and renamed at once.

```text
.checkpoint-00000007.5f0c2a91.partial/   while it is written: each file, then the manifest, each followed by fsync
checkpoint-00000007/                     after one rename
.checkpoint-00000005.removed/            while it is removed
```

Whatever ends the process, and wherever, every folder with a plain name holds all that was written into it. A
folder that another program or a broken disk has damaged since is told by its manifest, which has each file's size and
checksum: files of two folders have the same sizes, so that only the checksum tells one that was exchanged.

No two trainings may write to one directory. Unfinished folders have names of their own, so that none holds files of
both, and the first one that finds a folder of the other's raises.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from kparallel.errors import CheckpointError

__all__: list[str] = []

_MANIFEST = "manifest.json"
_WHOLE = re.compile(r"checkpoint-(\d{8})")
_UNFINISHED = re.compile(r"\.checkpoint-\d{8}\.(?:[0-9a-f]+\.partial|removed)")
_BLOCK = 1 << 20

Write = Callable[[Path], None]


class FolderWriter:
    """Adds folders to those of a directory, and removes the oldest.

    Args:
        directory: Holds the folders of one training; made if it is not there.
        keep: How many folders stay.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory = directory
        self._keep = keep
        self._last = _newest(directory)

    def write(self, files: Mapping[str, Write]) -> Path:
        """Write a folder and return it.

        Args:
            files: For each file's name what writes it.

        Raises:
            OSError: It cannot be written, as on a full disk. The folders that were there are there still.
            CheckpointError: Another process has written a folder since the last one of this writer, or its begin.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        self._check_alone()
        name = f"checkpoint-{self._last + 1:08d}"
        partial, whole = self._directory / f".{name}.{secrets.token_hex(4)}.partial", self._directory / name
        try:
            # The order is the guarantee: first each file's bytes are on the disk, then the manifest's, then the names
            # in the folder; only then does one rename give the folder a name that readers look for. The second sync
            # makes that rename last.
            partial.mkdir()
            for file, write in files.items():
                write(partial / file)
                _sync(partial / file)
            (partial / _MANIFEST).write_text(json.dumps({file: _content(partial / file) for file in files}))
            _sync(partial / _MANIFEST)
            _sync(partial)
            self._check_alone()  # Much may have happened meanwhile.
            partial.rename(whole)
        # Also an interrupt: the process may go on, and the next call would find the folder in its way.
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._last += 1
        _sync(self._directory)
        # The new folder is on the disk by now, so that there is a whole one at every moment.
        for folder in _named(self._directory)[self._keep :]:
            # Renamed first. A process that ends inside `rmtree` would leave a folder with a plain name and half its
            # files.
            removed = self._directory / f".{folder.name}.removed"
            folder.rename(removed)
            shutil.rmtree(removed)
        return whole

    def _check_alone(self) -> None:
        newest = _newest(self._directory)
        if newest > self._last:
            raise CheckpointError(
                f"Expected a directory to which no other training writes, received {self._directory}, where another "
                f"one has written checkpoint-{newest:08d} meanwhile. Give each a directory of its own, or end one."
            )


def folders(directory: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folders of a directory, the newest first, each with what is broken of it, or the empty text.

    Args:
        directory: As `FolderWriter` takes it.
    """
    for folder in _named(directory):
        yield folder, _damage(folder)


def clear_unfinished(directory: Path) -> None:
    """Remove what processes that were killed have left half written or half removed.

    Args:
        directory: As `FolderWriter` takes it; no other process writes there now.
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


def _newest(directory: Path) -> int:
    return max((_number(folder) for folder in _named(directory)), default=0)


def _content(path: Path) -> dict[str, int]:
    """Return what tells a file from another: its size and checksum."""
    size = checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return {"bytes": size, "crc32": checksum}


def _number(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _damage(folder: Path) -> str:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        for file, expected in manifest.items():
            size = (folder / file).stat().st_size
            if size != expected["bytes"]:
                return f"{file} has {size} of {expected['bytes']} bytes"
            if _content(folder / file) != expected:
                return f"{file} has another checksum than when it was written"
    except (OSError, ValueError, AttributeError, LookupError, TypeError) as error:
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
