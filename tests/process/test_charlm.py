"""The character model, data parallel x pipeline, in a process of its own, as a user starts it."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_character_model_learns_and_writes_under_plain_keras(tmp_path):
    command = [sys.executable, ROOT / "examples" / "charlm.py", "--steps=60", "--recompute=except_last"]
    command += ["--blocks=2", "--microbatches=2"]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "-1"}
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=720)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    assert "2 replicas x 2 stages" in run.stdout
    loss, unigram = (
        float(re.search(rf"^{name} loss: (\d+\.\d+)", run.stdout, re.M)[1]) for name in ("validation", "unigram")
    )
    assert loss < unigram - 0.5
    assert len(run.stdout.split("cannot be imported:\n")[1]) > 200
    assert [path.name for path in tmp_path.iterdir()] == ["charlm.keras"]
