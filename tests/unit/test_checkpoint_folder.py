"""Folders that are whole or not there: a small process that writes them is killed at every call that it makes."""

import json
import os
import signal
import subprocess
import sys

import pytest

from kparallel.checkpoint.folder import clear_unfinished, folders, write_folder

# Writes five folders of two files, and kills itself before the call number argv[2] of those that change the disk.
WRITE = """
import os, pathlib, shutil, signal, sys
from kparallel.checkpoint.folder import write_folder

count, last = 0, int(sys.argv[2])

def killing(call):
    def counted(*args, **options):
        global count
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)
    return counted

for name in ("fsync", "rename", "mkdir", "unlink", "rmdir"):
    setattr(os, name, killing(getattr(os, name)))

def half(path, text):
    with open(path, "w") as file:
        file.write(text[:3])
        file.flush()
        os.fsync(file.fileno())
        file.write(text[3:])

for number in range(5):
    files = {name: lambda path, name=name: half(path, f"{name} {number}") for name in ("weights", "rest")}
    write_folder(pathlib.Path(sys.argv[1]), files, 2)
    print(number, flush=True)
print("calls", count)
"""


def write(directory, last):
    command = [sys.executable, "-c", WRITE, str(directory), str(last)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


def check(directory, written):
    """All folders are whole, and the newest is the last one that was told, or the one behind it."""
    found = list(folders(directory))
    assert all(not damage for _, damage in found), found
    numbers = []
    for folder, _ in found:
        number = (folder / "rest").read_text().removeprefix("rest ")
        assert (folder / "weights").read_text() == f"weights {number}"
        numbers.append(int(number))
    assert numbers == sorted(numbers, reverse=True)
    if written:
        assert numbers[0] in (written - 1, written) and len(numbers) >= min(2, written)


def places():
    """Every call of a run, some hundred."""
    return range(1, 81)


@pytest.mark.parametrize("last", places())
def test_whenever_the_writer_is_killed_whole_folders_stay(tmp_path, last):
    done = write(tmp_path, last)
    written = [line for line in done.stdout.splitlines() if not line.startswith("calls")]
    if done.returncode == 0:
        assert len(written) == 5
    else:
        assert done.returncode == -signal.SIGKILL, done.stderr
    check(tmp_path, len(written))
    clear_unfinished(tmp_path)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    files = {"weights": lambda path: path.write_text("weights 9"), "rest": lambda path: path.write_text("rest 9")}
    newest = write_folder(tmp_path, files, 2)
    assert [folder for folder, _ in folders(tmp_path)][0] == newest and len(os.listdir(tmp_path)) <= 2


def test_the_places_cover_all_calls(tmp_path):
    calls = int(write(tmp_path, -1).stdout.split()[-1])
    assert 40 < calls <= len(places())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_folder_that_fails_costs_none_that_was_there(tmp_path, error):
    def fails(path):
        path.write_text("half")
        raise error

    first = write_folder(tmp_path, {"one": lambda path: path.write_text("1")}, 2)
    with pytest.raises(type(error)):
        write_folder(tmp_path, {"one": lambda path: path.write_text("2"), "two": fails}, 2)
    assert os.listdir(tmp_path) == [first.name]


@pytest.mark.parametrize("damage", ["shorter", "gone", "manifest", "no manifest"])
def test_what_is_broken_is_told(tmp_path, damage):
    folder = write_folder(tmp_path, {"one": lambda path: path.write_text("text")}, 2)
    assert json.loads((folder / "manifest.json").read_text()) == {"one": 4}
    if damage == "shorter":
        (folder / "one").write_text("t")
    elif damage == "gone":
        (folder / "one").unlink()
    elif damage == "manifest":
        (folder / "manifest.json").write_text("[1")
    else:
        (folder / "manifest.json").unlink()
    ((found, told),) = folders(tmp_path)
    assert found == folder and told


def test_there_may_be_no_directory(tmp_path):
    assert list(folders(tmp_path / "none")) == []
    clear_unfinished(tmp_path / "none")
