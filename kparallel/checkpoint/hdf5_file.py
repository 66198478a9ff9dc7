"""A file for HDF5, which does not survive a write that fails, as on a full disk.

HDF5 keeps what it could not write, and tries again at the end of the program, which then ends by SIGSEGV; until then
the removed file takes its space. So HDF5 is told that all is well, and the error is there when the file is closed.
"""

import io
import os
from pathlib import Path
from typing import Any

__all__: list[str] = []


class Hdf5File(io.BytesIO):
    """A new file on the disk, to be given to h5py in place of its path.

    It is a `BytesIO` because Keras's store takes no other object. Nothing is held in memory.

    Args:
        path: Where it is made.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = io.FileIO(path, "w+")
        self.error: OSError | None = None  # The first one; nothing is written after it.

    def write(self, data: Any) -> int:
        """Write bytes, or note why they cannot be written."""
        rest = memoryview(data).cast("B")
        size = rest.nbytes
        while rest and self.error is None:
            try:
                rest = rest[self._file.write(rest) :]
            except OSError as error:
                self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the size, or note why it cannot be set."""
        try:
            if self.error is None:
                return self._file.truncate(size)
        except OSError as error:
            self.error = error
        return self._file.tell() if size is None else size

    def readinto(self, buffer: Any) -> int:
        """Read as much as there is."""
        return self._file.readinto(buffer) or 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._file.tell()

    def close(self) -> None:
        """Close it; what could not be written is told by `error`."""
        self._file.close()
        super().close()
