"""Folders that are whole or not there: a small process that writes them is killed at every call that it makes."""

import json
import os
import signal
import subprocess
import sys
import zlib

import pytest

from kparallel.checkpoint.folder import FolderWriter, clear_unfinished, folders
from kparallel.errors import CheckpointError

# Writes five folders of two files, and kills itself before the call number argv[2] of those that change the disk.
WRITE = """
import os, pathlib, shutil, signal, sys
from kparallel.checkpoint.folder import FolderWriter

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

folders = FolderWriter(pathlib.Path(sys.argv[1]), 2)
for number in range(5):
    files = {name: lambda path, name=name: half(path, f"{name} {number}") for name in ("weights", "rest")}
    folders.write(files)
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
    newest = FolderWriter(tmp_path, 2).write(files)
    assert [folder for folder, _ in folders(tmp_path)][0] == newest and len(os.listdir(tmp_path)) <= 2


def test_the_places_cover_all_calls(tmp_path):
    calls = int(write(tmp_path, -1).stdout.split()[-1])
    assert 40 < calls <= len(places())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_folder_that_fails_costs_none_that_was_there(tmp_path, error):
    def fails(path):
        path.write_text("half")
        raise error

    first = FolderWriter(tmp_path, 2).write({"one": lambda path: path.write_text("1")})
    with pytest.raises(type(error)):
        FolderWriter(tmp_path, 2).write({"one": lambda path: path.write_text("2"), "two": fails})
    assert os.listdir(tmp_path) == [first.name]


def test_a_directory_is_one_trainings_own(tmp_path):
    """Each of two trainings writes in folders of its own, and the one that finds the other's raises."""
    one, other = FolderWriter(tmp_path, 2), FolderWriter(tmp_path, 2)

    def meanwhile(path):
        path.write_text("one")
        other.write({"file": lambda path: path.write_text("other")})

    with pytest.raises(CheckpointError, match="where another one has written checkpoint-00000001 meanwhile"):
        one.write({"file": meanwhile})
    with pytest.raises(CheckpointError, match="no other training writes"):
        one.write({"file": lambda path: path.write_text("one")})
    newest = other.write({"file": lambda path: path.write_text("another")})
    assert newest.name == "checkpoint-00000002" and (newest / "file").read_text() == "another"
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-00000001", "checkpoint-00000002"]


def test_a_folder_that_cannot_be_removed_is_no_other_trainings(tmp_path, monkeypatch):
    folders_of_one = FolderWriter(tmp_path, 1)
    folders_of_one.write({"file": lambda path: path.write_text("1")})
    monkeypatch.setattr("shutil.rmtree", lambda path: (_ for _ in ()).throw(OSError(16, "Device or resource busy")))
    with pytest.raises(OSError, match="busy"):
        folders_of_one.write({"file": lambda path: path.write_text("2")})
    monkeypatch.undo()
    assert folders_of_one.write({"file": lambda path: path.write_text("3")}).name == "checkpoint-00000003"


@pytest.mark.parametrize("damage", ["shorter", "gone", "exchanged", "manifest", "no manifest", "an older manifest"])
def test_what_is_broken_is_told(tmp_path, damage):
    folder = FolderWriter(tmp_path, 2).write({"one": lambda path: path.write_text("text")})
    assert json.loads((folder / "manifest.json").read_text()) == {"one": {"bytes": 4, "crc32": zlib.crc32(b"text")}}
    if damage == "shorter":
        (folder / "one").write_text("t")
    elif damage == "gone":
        (folder / "one").unlink()
    elif damage == "exchanged":
        (folder / "one").write_text("next")
    elif damage == "an older manifest":
        (folder / "manifest.json").write_text('{"one": 4}')
    elif damage == "manifest":
        (folder / "manifest.json").write_text("[1")
    else:
        (folder / "manifest.json").unlink()
    ((found, told),) = folders(tmp_path)
    assert found == folder and told


def test_there_may_be_no_directory(tmp_path):
    assert list(folders(tmp_path / "none")) == []
    clear_unfinished(tmp_path / "none")
