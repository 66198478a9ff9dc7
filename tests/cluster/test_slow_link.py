"""`kparallel test` over three hosts, network namespaces here, of which one has a slow link."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = [f"kparallel-{os.getpid()}-{side}" for side in "abc"]
BRIDGE = f"kpbr{os.getpid() % 10**8}"


def run(*words):
    subprocess.run(words, check=True, capture_output=True, timeout=60)


@pytest.fixture
def hosts():
    """Give the addresses of three hosts on one bridge; what the third sends is held to 40 Mbit/s."""
    try:
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "link", "set", BRIDGE, "up")
        for number, name in enumerate(NAMES, start=1):
            cable = f"{BRIDGE[-11:]}{number}"
            run("ip", "netns", "add", name)
            run("ip", "link", "add", cable, "type", "veth", "peer", "name", "kp", "netns", name)
            run("ip", "link", "set", cable, "master", BRIDGE, "up")
            run("ip", "-n", name, "addr", "add", f"10.78.0.{number}/24", "dev", "kp")
            for each in ("kp", "lo"):
                run("ip", "-n", name, "link", "set", each, "up")
        limit = ["rate", "40mbit", "burst", "64kb", "latency", "400ms"]
        run("ip", "netns", "exec", NAMES[2], "tc", "qdisc", "add", "dev", "kp", "root", "tbf", *limit)
        yield [f"10.78.0.{number}:2222" for number in (1, 2, 3)]
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces with a slow link cannot be made here: {error}")
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)


@pytest.mark.full
def test_links_to_a_slow_host_are_named(hosts):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-m", "kparallel", "test", "--timeout", "150", "--hosts", ",".join(hosts), "--index"]
    workers = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, *command, str(index)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index, name in enumerate(NAMES)
    ]
    try:
        printed = [worker.communicate(timeout=900)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0, 0], printed
    of_links = {line[:19]: line for line in printed[0].splitlines() if line.startswith("worker ") and " - " in line}
    assert of_links["worker 0 - worker 1"].endswith("   ok"), printed[0]
    for slow in ("worker 0 - worker 2", "worker 1 - worker 2"):
        assert "times slower than the fastest network link" in of_links[slow], printed[0]
