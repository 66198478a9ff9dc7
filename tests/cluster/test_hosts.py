"""The digits on two workers: on one machine, and on two hosts with addresses of their own."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "kparallel", "run", "--timeout", "60"]


def environment(folder):
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def digits(folder, *arguments):
    return [str(ROOT / "examples" / "digits.py"), "--data-dir", str(folder / "records"), *arguments]


def accuracies(text):
    return [float(value) for value in re.findall(r"^(?:\[0\] )?test accuracy.*: (\d\.\d{4})$", text, re.MULTILINE)]


@pytest.mark.full
def test_two_workers_train_the_digits_to_97_percent(tmp_path):
    command = [*RUN, "-n", "2", *digits(tmp_path)]
    run = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=720)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    trained, loaded = accuracies(run.stdout)
    assert trained >= 0.97 and abs(trained - loaded) < 1e-4


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture
def hosts():
    """Return for each of two hosts its address and the words that run a command there.

    The hosts are network namespaces joined by a cable of their own, where this machine lets us make them; else
    two loopback addresses.
    """
    names = [f"kparallel-{os.getpid()}-{side}" for side in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "kpa", "netns", names[0], "type", "veth", "peer", "name", "kpb", "netns", names[1])
        for name, link, address in zip(names, ("kpa", "kpb"), ("10.77.0.1/24", "10.77.0.2/24"), strict=True):
            ip("-n", name, "addr", "add", address, "dev", link)
            for each in (link, "lo"):
                ip("-n", name, "link", "set", each, "up")
        yield [(f"10.77.0.{number}:2222", ["ip", "netns", "exec", name]) for number, name in enumerate(names, start=1)]
    except (OSError, subprocess.CalledProcessError):
        sockets = [socket.create_server((f"127.0.0.{number}", 0)) for number in (1, 2)]
        ports = [each.getsockname()[1] for each in sockets]
        for each in sockets:
            each.close()
        yield [(f"127.0.0.{number}:{port}", []) for number, port in enumerate(ports, start=1)]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.full
def test_two_hosts_train_the_digits_to_97_percent(tmp_path, hosts):
    addresses = ",".join(address for address, _ in hosts)
    started = [
        subprocess.Popen(
            [*prefix, *RUN, "--hosts", addresses, "--index", str(index), *digits(tmp_path, "--epochs=12")],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index, (_, prefix) in enumerate(hosts)
    ]
    try:
        texts = [each.communicate(timeout=720)[0] for each in started]
    finally:
        for each in started:
            each.terminate()
    assert [each.returncode for each in started] == [0, 0], texts[0][-3000:] + texts[1][-3000:]
    trained, loaded = accuracies(texts[0])
    assert trained >= 0.97 and abs(trained - loaded) < 1e-4
    assert accuracies(texts[1]) == [], "only the chief writes and tells"
