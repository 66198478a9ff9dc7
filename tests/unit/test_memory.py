"""What this process holds, as Linux tells it, and where there is no such file."""

import numpy as np

from kparallel.machines.memory import Memory, process_memory


def test_the_present_and_the_peak_are_told_apart():
    before = process_memory()
    block = np.ones(2**24)  # 128 MB.
    with_block = process_memory()
    assert with_block.now - before.now > 2**26 and with_block.most >= with_block.now
    del block
    assert process_memory().most >= with_block.most - 2**20


def test_the_peak_stands_for_both_where_linux_tells_nothing(tmp_path):
    missing = process_memory(tmp_path / "status")
    assert missing.now == missing.most > 2**20
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t     8 kB\nVmRSS:\t     4 kB\n")
    assert process_memory(tmp_path / "status") == Memory(now=4096, most=8192)
