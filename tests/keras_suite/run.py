"""Runs Keras's own tests in a process of their own, their models wrapped or plain."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import keras

from tests.keras_suite.plugin import TRAINS

SOURCES = Path(keras.__file__).parent / "src"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """What became of one test.

    Attributes:
        outcome: `"passed"`, `"failed"` or `"skipped"`.
        message: Of the error.
        wrapped: How many models were wrapped.
        seconds: How long it took.
    """

    outcome: str
    message: str
    wrapped: int
    seconds: float


def modules(part: str) -> list[str]:
    """Return the test modules of a folder of Keras's sources that train models."""
    paths = sorted((SOURCES / part).rglob("*_test.py"))
    return [str(path.relative_to(SOURCES)) for path in paths if any(word in path.read_text() for word in TRAINS)]


def run(tests: list[str], mode: str, folder: Path) -> dict[str, Outcome]:
    """Run tests and return each one's outcome.

    Args:
        tests: Modules, or single tests as pytest names them, in Keras's sources.
        mode: One of the plugin's modes.
        folder: Where the process runs, and writes what the tests write.
    """
    outcomes = folder / f"{mode}.json"
    # A module that cannot be imported here is left out.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--continue-on-collection-errors",
        "-p",
        "tests.keras_suite.plugin",
        "-p",
        "no:cacheprovider",
    ]
    command += ["-c", str(ROOT / "tests/keras_suite/keras.ini"), "--rootdir", str(SOURCES.parents[1])]
    command += ["--wrap", mode, "--outcomes", str(outcomes), *(str(SOURCES / test) for test in tests)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout[-4000:] + done.stderr[-4000:]
    return {name: Outcome(**found) for name, found in json.loads(outcomes.read_text()).items()}


def deviations(tests: list[str], mode: str, folder: Path) -> tuple[dict[str, Outcome], dict[str, str]]:
    """Run tests wrapped, and those that fail plain as well.

    Returns:
        The outcomes, and by name the messages of those that fail wrapped alone.
    """
    found = run(tests, mode, folder)
    failed = [name for name, outcome in found.items() if outcome.outcome == "failed"]
    plain = run(failed, "plain", folder) if failed else {}
    return found, {name: found[name].message for name in failed if plain[name].outcome == "passed"}
