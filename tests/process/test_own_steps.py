"""The examples with steps of their own, in processes of their own, as a user starts them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script, *arguments, folder):
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, ROOT / "examples" / script, *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_two_adversaries_paint_on_one_and_two_replicas(tmp_path):
    printed = run("gan.py", "--epochs=2", folder=tmp_path)
    assert len(re.findall(r"two replicas: judge_loss \d\.\d+, painter_loss \d\.\d+, recognised", printed)) == 2
    assert [path.name for path in sorted((tmp_path / "pictures").iterdir())] == ["epoch_001.png", "epoch_002.png"]


@pytest.mark.full
def test_a_linear_probe_of_contrastive_features(tmp_path):
    printed = run("contrastive.py", "--epochs=12", folder=tmp_path)
    assert float(re.search(r"linear probe accuracy: (\d\.\d+)", printed)[1]) >= 0.95
