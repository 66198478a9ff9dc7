"""A run over several launchers that come and go, each with a light process for its worker."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from kparallel.launcher.local import free_addresses
from tests.process.light_gang import COUNT, HOSTS, wait_until


class Launchers:
    """Starts launchers, each of which writes what it tells into a file; ends them whatever happens."""

    def __init__(self, folder, stack, sizes, restarts, fates):
        self.folder, self.stack = folder, stack
        self.sizes, self.restarts, self.fates = sizes, restarts, fates
        self.addresses = free_addresses(int(sizes.rpartition(":")[2]))
        (folder / "script.py").write_text(COUNT)

    def start(self, index, sizes=None, **environment):
        most = self.sizes.rpartition(":")[2]
        command = [sys.executable, "-c", HOSTS, ",".join(self.addresses), str(index), sizes or self.sizes]
        command += [str(self.restarts), self.folder / "script.py", self.folder, most, repr(self.fates)]
        with open(self.folder / f"host-{index}", "a") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | environment)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process

    def told(self, index):
        lines = (self.folder / f"host-{index}").read_text().splitlines()
        return [line for line in lines if line.startswith(("gang", "TOLD", "ENDING"))]

    def wait_for(self, index, line):
        wait_until(lambda: line in self.told(index))


@pytest.fixture
def launchers(tmp_path):
    with contextlib.ExitStack() as stack:
        yield lambda sizes, restarts, *fates: Launchers(tmp_path, stack, sizes, restarts, fates)


WAIT = "wait_until((folder / 'go').exists)"


def test_a_launcher_that_is_killed_and_comes_back_joins_at_the_next_checkpoint(launchers, tmp_path):
    run = launchers("1:2", 0, (0, 0, 2, WAIT), (0, 1, 2, WAIT))
    chief, other = run.start(0), run.start(1)
    run.wait_for(1, "gang 0 of 2")
    wait_until(lambda: (tmp_path / "done").exists() and (tmp_path / "done").read_text() == "2")
    other.kill()
    run.wait_for(0, "gang 1 of 1 from 2")
    other = run.start(1)
    (tmp_path / "go").touch()
    assert chief.wait(180) == other.wait(180) == 0
    lost = f"TOLD host 1 ({run.addresses[1]}) was lost; 1 worker goes on from step 2 of epoch 0"
    more = "TOLD more hosts are there; 2 workers go on from step 3 of epoch 0"
    assert run.told(0) == ["gang 0 of 2 from 0", lost, "gang 1 of 1 from 2", more, "gang 2 of 2 from 3", "ENDING 0 "]
    assert run.told(1) == ["gang 0 of 2", more, "gang 2 of 2", "ENDING 0 "]


def test_a_lost_worker_is_started_again_at_the_next_checkpoint(launchers):
    run = launchers("1:2", 0, (1, 0, 2, "kill()"))
    chief, other = run.start(0), run.start(1)
    assert chief.wait(180) == other.wait(180) == 0
    assert run.told(0)[1] == run.told(1)[1]
    assert run.told(0)[1] == "TOLD worker 1 was ended by SIGKILL; 1 worker goes on from step 2 of epoch 0"
    assert run.told(0)[-2:] == ["gang 2 of 2 from 3", "ENDING 0 "] and run.told(1)[-2:] == ["gang 2 of 2", "ENDING 0 "]


def test_a_launcher_that_is_told_to_leave_is_no_failure(launchers, tmp_path):
    left = "if me:\n    signal.signal(signal.SIGTERM, lambda *_: (left.touch(), sys.exit(75)))\nprint("
    run = launchers("1:2", 0, (0, 0, 2, "wait_until(left.exists); sys.exit(75)"), (0, 1, 2, WAIT))
    (tmp_path / "script.py").write_text(COUNT.replace("print(", left, 1))
    chief, other = run.start(0), run.start(1)
    run.wait_for(1, "gang 0 of 2")
    wait_until(lambda: (tmp_path / "done").exists() and (tmp_path / "done").read_text() == "2")
    other.send_signal(signal.SIGTERM)
    assert other.wait(180) == 75
    run.wait_for(0, "gang 1 of 1 from 2")
    other = run.start(1)
    (tmp_path / "go").touch()
    assert chief.wait(180) == other.wait(180) == 0
    assert f"TOLD host 1 ({run.addresses[1]}) was told to leave; 1 worker goes on from step 2 of epoch 0" in run.told(0)


def test_host_0_is_waited_for(launchers, tmp_path):
    run = launchers("1:2", 0, (0, 0, 2, WAIT))
    chief, other = run.start(0), run.start(1)
    wait_until(lambda: (tmp_path / "done").exists() and (tmp_path / "done").read_text() == "2")
    chief.kill()
    name = f"host 0 ({run.addresses[0]}), which coordinates,"
    run.wait_for(1, f"TOLD {name} was lost; waits 60 s for it")
    (tmp_path / "go").touch()
    chief = run.start(0)
    assert chief.wait(180) == other.wait(180) == 0
    assert run.told(0)[-2] == "gang 0 of 2 from 2" and run.told(1)[-2:] == ["gang 0 of 2", "ENDING 0 "]


def test_too_few_end_with_the_cause(launchers):
    run = launchers("2:3", 0, (0, 0, 1, "kill()"), (1, 1, 1, "raise ValueError('a fault')"))
    processes = [run.start(index) for index in range(3)]
    assert [process.wait(180) for process in processes] == [1, 1, 1]
    for index in range(3):
        assert run.told(index)[-1] == "ENDING 1 worker 1 failed with exit code 1", run.told(index)


def test_who_does_not_come_is_named(launchers):
    run = launchers("2:3", 0)
    assert run.start(0, SECONDS_TO_WAIT="1").wait(180) == 1
    missing = ", ".join(f"host {index} ({run.addresses[index]})" for index in (1, 2))
    assert run.told(0)[-1] == f"ENDING 1 expected at least 2 hosts within 1 s; missing were {missing}"
    (run.folder / "host-1").touch()
    assert run.start(1, SECONDS_TO_WAIT="1").wait(180) == 1
    assert f"WorkerError: Host 1 waited 1 s for host 0 ({run.addresses[0]})" in (run.folder / "host-1").read_text()


def test_launchers_that_were_told_different_sizes_and_strangers_are_refused(launchers):
    run = launchers("1:2", 0)
    run.start(0)
    assert run.start(1, sizes="2:2").wait(180) == 1
    host, port = run.addresses[0].split(":")
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(b'{"hello": 1, "port": 1}\n')
        assert stranger.recv(1) == b""
    other = "it has another KPARALLEL_TOKEN: set the same on all hosts, or none"
    run.wait_for(0, f"TOLD dropped a connection from 127.0.0.1: {other}")
    told = (run.folder / "host-1").read_text()
    assert "ClusterError: Expected the same -n and --hosts on all hosts, received '-n 1:2 --hosts" in told
