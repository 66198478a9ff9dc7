"""A file for HDF5 on a disk that is full: the error is told, and the process lives on and ends well."""

import subprocess
import sys

import h5py
import numpy as np

from kparallel.checkpoint.hdf5_file import Hdf5File

# No file may be larger than 64 KB. With a path in place of the file, h5py ends this process by SIGSEGV.
WRITE = """
import os, pathlib, resource, sys
import h5py, numpy as np
from kparallel.checkpoint.hdf5_file import Hdf5File

def write(size):
    with Hdf5File(pathlib.Path(sys.argv[1])) as file:
        with h5py.File(file, "w") as store:
            for number in range(4):
                store.create_dataset(str(number), data=np.ones(size))
    print(file.error and file.error.errno)

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
for size in (5_000, 50_000, 3_000, 100):
    write(size)
print(*os.listdir("/proc/self/fd"))
"""


def test_a_full_disk_is_an_error_and_no_crash(tmp_path):
    done = subprocess.run([sys.executable, "-c", WRITE, tmp_path / "file"], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0 and not done.stderr, done.stderr
    *errors, descriptors = done.stdout.splitlines()
    assert errors == ["27", "27", "27", "None"] and len(descriptors.split()) == 4  # With that of the list itself.


def test_what_is_written_is_read_by_its_path(tmp_path):
    values = np.random.default_rng(0).normal(size=(100, 7))
    with Hdf5File(tmp_path / "file") as file, h5py.File(file, "w") as store:
        group = store.create_group("layers/dense")
        group.attrs["name"] = "dense"
        group["0"] = values
    assert file.error is None
    with h5py.File(tmp_path / "file") as store:
        np.testing.assert_array_equal(store["layers/dense/0"][()], values)
        assert store["layers/dense"].attrs["name"] == "dense"
