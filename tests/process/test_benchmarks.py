"""The benchmarks' harness: arms take turns, the table says what they measured, and a broken arm is named."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.benchmarks.arms import ArmError, Process, Sample, running
from examples.benchmarks.catalogue import BENCHMARKS, CHOSEN, TABLES
from examples.benchmarks.ratio import best_variant
from examples.benchmarks.row import Row
from examples.benchmarks.table import BEGIN, CHOSEN_BEGIN, CHOSEN_END, END, line, render, render_chosen, update

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"


def test_one_command_measures_and_writes_the_table(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    command = [sys.executable, "-m", "examples.benchmarks", "--only=one-replica-tiny", "--rounds=2", f"--write={page}"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=360)
    assert run.returncode == 0, run.stdout + run.stderr
    (kept,) = json.loads(page.with_suffix(".json").read_text()).values()
    (row,) = (Row(**row) for row in kept["rows"])
    assert 0.02 < row.low <= row.value <= row.high < 50  # Both arms worked; how long is for others to measure.
    text = page.read_text()
    assert line(row) in run.stdout and line(row) in text and "old" not in text
    assert text.startswith("before\n") and text.endswith("after\n")
    assert f"versions: {kept['machine']['versions']}" in text


def test_a_partial_run_keeps_the_other_rows_and_the_order(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    machine, other = {"CPU": "one"}, {"CPU": "two"}
    tables = {"t": ("The first", ["a", "b"]), "u": ("The second", ["c"])}
    update(page, {"b": [Row("second", 1.5, 1.4, 1.6, at_least=1.7)], "a": [Row("first", 1.0)]}, machine, tables)
    update(page, {"a": [Row("anew", 3.0, unit="ms", at_most=5.0)], "c": [Row("third", None)]}, other, tables)
    rows = [each for each in page.read_text().splitlines() if each.startswith("| ") and "what" not in each]
    assert rows == [
        "| anew | 3.00 ms |  | ≤ 5.00 | yes |  |",
        "| second | 1.50 | 1.40 – 1.60 | ≥ 1.70 | **missed** |  |",
        "| third | not run |  |  |  |  |",
    ]
    text = page.read_text()
    assert (
        text.index("### The first\n") < text.index("- a: CPU: two.\n- b: CPU: one.\n") < text.index("### The second\n")
    )
    assert "--table u --write" in text and "\nMeasured on CPU: two.\n" in text


def test_a_broken_arm_is_named_with_its_output(tmp_path):
    broken = {"broken": [Process("examples.benchmarks.no_such_arm", {}, [0])]}
    with pytest.raises(ArmError, match=r"arm 'broken' ended with 1:[\s\S]*no_such_arm"), running(broken, str(tmp_path)):
        pass


def test_the_page_shows_what_was_stored():
    kept = json.loads(PAGE.with_suffix(".json").read_text())
    assert set(kept) <= set(BENCHMARKS)
    assert render(kept, TABLES) in PAGE.read_text()
    assert render_chosen(kept, CHOSEN) in PAGE.read_text()


def test_the_chosen_rows_exist_and_show_what_is_missed():
    kept = json.loads(PAGE.with_suffix(".json").read_text())
    rows = {row["what"]: Row(**row) for entry in kept.values() for row in entry["rows"]}
    assert set(CHOSEN) <= set(rows)
    assert {rows[what].met for what in CHOSEN} >= {True, False}


def test_the_page_is_written_from_what_is_stored(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"{CHOSEN_BEGIN}\nold\n{CHOSEN_END}\nbetween\n{BEGIN}\n{END}\n")
    tables = {"t": ("The first", ["a"])}
    results = {"a": [Row("first", 1.0, conditions="one core"), Row("second", 2.0)]}
    update(page, results, {"CPU": "one"}, tables, ["second", "never measured"])
    written = page.read_text()
    assert "| second | 2.00 |  |  |  |\n\n<!--" in written and "old" not in written and "\nbetween\n" in written
    update(page, {}, {}, tables, ["first"])
    assert "| first | 1.00 |  |  |  |\n\n<!--" in page.read_text()
    assert render(json.loads(page.with_suffix(".json").read_text()), tables) in page.read_text()


def test_the_fastest_variant_is_found_over_turns():
    class Timed:
        name = "timed"
        asked: list[str] = []
        seconds = {"slow": iter([1.0, 3.0, 3.0]), "fast": iter([2.0, 0.5, 2.0])}

        def run(self, steps, variant):
            self.asked.append(variant)
            return Sample(next(self.seconds[variant]), 0, 0, 0)

    assert best_variant(Timed(), ["slow", "fast"], 12) == "fast"
    assert Timed.asked == ["slow", "fast"] * 3


@pytest.mark.parametrize("file", sorted(PAGE.parents[1].glob("examples/benchmarks/*.py")), ids=lambda file: file.stem)
def test_what_a_benchmark_imports_exists(file):
    """An arm imports where it runs, after its core is pinned, so that a name that is gone would show there alone."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    for node in nodes:
        if node.module.split(".")[0] in ("kparallel", "examples") and "torch" not in node.module:
            module = importlib.import_module(node.module)
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                assert hasattr(module, alias.name) or importlib.util.find_spec(inside) is not None, inside
