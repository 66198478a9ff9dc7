"""One program over several machines: real processes on loopback, held against one device, and what ends them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kparallel.launcher.local import free_addresses
from tests.processes import ENVIRONMENT

HERE = Path(__file__).parent
RUN = [sys.executable, "-m", "kparallel", "run", "-n", "2", "--one-program", "--timeout", "60", "--grace", "1"]


def is_gone(process):
    return not Path(f"/proc/{process}").exists()


def test_one_program_over_two_machines_equals_one_device_and_ends_where_one_freezes(tmp_path):
    command = [*RUN, "--devices-per-worker", "2", "--heartbeat", "8", HERE / "one_program.py", tmp_path]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    lines = done.stdout.splitlines()
    assert lines == [
        "[0] two replicas of two stages (('worker0/CPU:0', 'worker1/CPU:0'), ('worker0/CPU:1', 'worker1/CPU:1'))",
        "[0] one replica, by name (('worker0/CPU:1', 'worker1/CPU:1'),)",
        "[0] recorded",
        "[0] refused",
    ], done.stdout + done.stderr[-6000:]
    assert done.returncode == 1
    assert "kparallel: Lost worker 1 (127.0.0.1:" in done.stderr and "does not respond any more" in done.stderr


def disturbed(folder, fate, moment, *options):
    """Run the script that fails, and return how the launcher ended; whatever it does, that takes less than 30 s."""
    folder.mkdir(exist_ok=True)
    command = [*RUN, "--heartbeat", "8", *options, "-m", "tests.cluster.one_program_faults", folder, fate, moment]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    server = folder / "server"
    if server.exists() and "restarts" not in " ".join(options):
        assert time.time() - server.stat().st_mtime < 30
        assert is_gone(int(server.read_text()))
    return done


LOSSES = [(fate, moment) for fate in ("killed", "frozen") for moment in ("tracing", "step", "evaluate", "saving")]


@pytest.mark.full
@pytest.mark.parametrize(("fate", "moment"), LOSSES)
def test_the_program_ends_with_the_name_of_the_machine_that_is_lost(tmp_path, fate, moment):
    done = disturbed(tmp_path, fate, moment)
    assert done.returncode == (137 if fate == "killed" else 1), done.stderr[-6000:]  # The cause counts.
    # A launcher that sees the server die ends the program, which may not come to its own sentence.
    words = "Lost worker 1 (127.0.0.1:" if fate == "frozen" else "worker 1 was ended by SIGKILL"
    assert words in done.stderr, done.stderr[-6000:]


FAILURES = {"itself killed": (137, "ended by SIGKILL"), "itself fails": (1, "own"), "itself ends": (7, "exit code 7")}


@pytest.mark.full
@pytest.mark.parametrize("fate", FAILURES)
def test_the_servers_end_with_the_program(tmp_path, fate):
    code, words = FAILURES[fate]
    done = disturbed(tmp_path, fate, "step")
    assert done.returncode == code and words in done.stderr, done.stderr[-6000:]


@pytest.mark.full
def test_a_run_that_lost_a_machine_goes_on_from_its_checkpoint_to_the_same_end(tmp_path):
    whole, killed, asked = (tmp_path / name for name in ("whole", "killed", "asked"))
    assert disturbed(whole, "nothing", "never").returncode == 0
    done = disturbed(killed, "killed", "step", "--restarts", "1")
    assert done.returncode == 0 and "restart 1 of 1" in done.stderr, done.stderr[-6000:]
    # SIGTERM to a server is a notice to the program, which leaves after a checkpoint.
    assert disturbed(asked, "asked", "step").returncode == 75
    assert disturbed(asked, "nothing", "never").returncode == 0
    for folder in (killed, asked):
        got, want = np.load(folder / "end.npz"), np.load(whole / "end.npz")
        for name in want.files:
            np.testing.assert_allclose(got[name], want[name], rtol=0, atol=1e-12)


def over_hosts(hosts, script, *options, prefixes=((), ())):
    """Start a launcher for each of two hosts."""
    own = [name for name in RUN if name not in ("-n", "2")]
    command = [*own, "--heartbeat", "8", "--hosts", ",".join(hosts), *options]
    return [
        subprocess.Popen(
            [*prefix, *command, "--index", str(index), *script],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index, prefix in enumerate(prefixes)
    ]


def ended(launchers):
    """Return how each launcher ended, and what it printed."""
    try:
        printed = [launcher.communicate(timeout=300)[0] for launcher in launchers]
    finally:
        for launcher in launchers:
            launcher.terminate()
    return [launcher.returncode for launcher in launchers], printed


def two_hosts():
    ports = [address.rpartition(":")[2] for address in free_addresses(2)]
    return [f"127.0.0.{number}:{port}" for number, port in enumerate(ports, start=1)]


FAULTS = ("-m", "tests.cluster.one_program_faults")


@pytest.mark.full
def test_a_launcher_on_each_host_ends_with_the_code_of_the_script(tmp_path):
    codes, printed = ended(over_hosts(two_hosts(), [*FAULTS, tmp_path, "nothing", "never"]))
    assert codes == [0, 0], printed
    (tmp_path / "ends").mkdir()
    codes, printed = ended(over_hosts(two_hosts(), [*FAULTS, tmp_path / "ends", "itself ends", "step"]))
    assert codes == [7, 7] and "has ended with exit code 7" in printed[1], printed


@pytest.mark.full
def test_an_absent_machine_is_named(tmp_path):
    hosts = two_hosts()
    script = [*FAULTS, tmp_path, "nothing", "never"]
    codes, printed = ended(over_hosts(hosts, script, "--timeout", "6", prefixes=[()]))
    assert codes == [1] and f"waited 6 s for worker 1 ({hosts[1]})" in printed[0], printed


@pytest.fixture
def namespaces():
    """Two hosts on one cable: what to write before a command, and each one's address."""
    names = [f"kparallel-{os.getpid()}-{side}" for side in "ab"]

    def run(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True, timeout=60)

    try:
        for name in names:
            run("netns", "add", name)
        run("-n", names[0], "link", "add", "kp", "type", "veth", "peer", "name", "kp", "netns", names[1])
        for number, name in enumerate(names, start=1):
            run("-n", name, "addr", "add", f"10.79.0.{number}/24", "dev", "kp")
            for each in ("kp", "lo"):
                run("-n", name, "link", "set", each, "up")
        yield [("ip", "netns", "exec", name) for name in names], [f"10.79.0.{number}:2222" for number in (1, 2)]
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.full
def test_machines_that_are_cut_off_from_each_other_both_end(namespaces, tmp_path):
    prefixes, hosts = namespaces
    launchers = over_hosts(hosts, [*FAULTS, tmp_path, "nothing", "ever"], prefixes=prefixes)
    until = time.monotonic() + 200
    while not (tmp_path / "trains").exists() and time.monotonic() < until:
        time.sleep(0.1)
    subprocess.run([*prefixes[0], "ip", "link", "set", "kp", "down"], check=True)
    cut = time.monotonic()
    codes, printed = ended(launchers)
    assert codes == [1, 1] and time.monotonic() - cut < 30, printed
    assert f"Lost worker 1 ({hosts[1]})" in printed[0] and f"Lost the program on worker 0 ({hosts[0]})" in printed[1]


@pytest.mark.full
@pytest.mark.parametrize("plan", ["2x2_gpipe_recompute", "1x2_1f1b", "2x2_sharded"])
def test_every_case_equals_one_device_over_two_machines(plan):
    command = [*RUN, "--devices-per-worker", "2", "-m", "tests.cluster.one_program_table", plan]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]


@pytest.mark.full
def test_each_process_holds_its_stage_alone():
    """By the peak of its memory, in which Adam's temporaries count: 454 and 453 MiB of 572 when this was written."""
    done = subprocess.run(
        [*RUN, "-m", "tests.cluster.one_program_memory"], env=ENVIRONMENT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-6000:]
    sizes = {name: int(size) for name, size in (line.split()[1:] for line in done.stdout.splitlines())}
    assert max(sizes["program"], sizes["server"]) < 0.9 * sizes["whole"], sizes
    assert abs(sizes["program"] - sizes["server"]) < 0.1 * sizes["whole"], sizes
