"""The documents hold: pages build without a warning, every example runs, every name and test they cite exists."""

import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import keras
import pytest

import kparallel
from tests.unit.test_imports import LAYERS, PURE

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def modules():
    for module in pkgutil.walk_packages(kparallel.__path__, "kparallel."):
        if not module.name.endswith("__main__"):
            yield module.name, Path(importlib.import_module(module.name).__file__)


def by_devices():
    """Group pages and modules by the number of virtual devices that their examples ask for, two if they do not."""
    groups = defaultdict(list)
    targets = [(str(path.relative_to(ROOT)), path) for path in PAGES] + list(modules())
    for target, path in targets:
        text = path.read_text()
        if "```python" in text or (path.suffix == ".py" and ">>> " in text):
            asked = re.search(r"virtual_devices\((\d+)\)", text)
            groups[asked[1] if asked else "2"].append(target)
    return dict(groups)


@pytest.mark.parametrize("devices", by_devices())
def test_examples_run(devices):
    command = [sys.executable, Path(__file__).with_name("run_examples.py"), devices, *by_devices()[devices]]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]


def test_pages_build_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", tmp_path / "html"]
    run = subprocess.run([*command, "-d", tmp_path / "doctrees"], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "html" / "index.html").exists()


def test_the_reference_has_every_public_name():
    reference = (ROOT / "docs" / "api.md").read_text()
    rooms = (kparallel.callbacks, kparallel.errors, kparallel.schedule)
    inside = [f"{room.__name__}.{name}".removeprefix("kparallel.") for room in rooms for name in room.__all__]
    for name in [*kparallel.__all__, *inside]:
        if name != "errors":
            assert re.search(rf"^\.\. (auto\w+|data):: kparallel\.{re.escape(name)}$", reference, re.MULTILINE), name


def test_the_reference_has_what_public_calls_return():
    reference = (ROOT / "docs" / "api.md").read_text()
    homes = (
        "planning.plan.LayerGroup",
        "planning.memory.Memory",
        "planning.predict.Prediction",
        "data.shards.Shards",
        "forecast.forecast.Forecast",
        "forecast.estimate.Estimate",
        "forecast.estimate.StepTime",
        "forecast.configuration.Configuration",
        "forecast.scaling.Scaling",
        "forecast.hardware.Hardware",
    )
    for home in homes:
        module, _, name = f"kparallel.{home}".rpartition(".")
        assert hasattr(importlib.import_module(module), name)
        assert f".. autoclass:: {module}.{name}\n" in reference


def test_how_it_works_draws_every_layer_in_order():
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    (tree,) = re.findall(r"^```text\nkparallel/\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    drawn = [name.removesuffix("/").removesuffix(".py") for name in re.findall(r"[├└]── (\S+)", tree)]
    assert drawn == LAYERS
    pure, rest = tree.split("with TensorFlow and Keras")
    assert {name for name in PURE if f"── {name}" in pure} == PURE and not [n for n in PURE if f"── {n}" in rest]


def test_how_it_works_names_files_and_what_is_in_them():
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    (way,) = re.findall(r"^```text\n(model\.fit .*?)^```$", page, re.DOTALL | re.MULTILINE)
    rows = re.findall(r"^.{33}(\w+/\w+\.py) +(.*)$", way, re.MULTILINE)
    assert len(rows) == way.count(".py") > 20
    for file, said in rows:
        source = (ROOT / "kparallel" / file).read_text()
        name = re.match(r"\w+", said)[0]
        if name[0].isupper() or "_" in name:
            assert re.search(rf"^(class|def) {name}\b", source, re.MULTILINE) or f"import {name}" in source, (
                file,
                said,
            )


def test_the_commands_exist():
    for path in PAGES:
        for block in re.findall(r"^```console\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE):
            for command in re.split(r"\n|&&", block.strip()):
                word = command.removeprefix("$").split()[0]
                if not word.startswith(".venv/bin/"):
                    assert shutil.which(word) or (Path(sys.executable).parent / word).exists(), f"{path.name}: {word}"
                for script in re.findall(r"\S+\.py\b", command):
                    assert (ROOT / script).exists(), f"{path.name}: {script}"


def test_the_tests_that_documents_cite_exist():
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for path in PAGES:
        for name, case in re.findall(r"`(test_\w+)(?:\[(\w+)\])?`", path.read_text()):
            if not hasattr(keras.Model, name):
                assert f"def {name}(" in sources, f"{path.name} cites {name}, which is no test"
            assert not case or f'"{case}"' in sources, f"{path.name} cites the case {case}, which is none"


def test_the_files_that_documents_name_exist():
    for path in PAGES:
        for name in re.findall(r"`((?:kparallel|tests|examples|docs)(?:/[\w.*]+)+)/?`", path.read_text()):
            assert list(ROOT.glob(name)), f"{path.name} names {name}, which does not exist"


def test_the_modules_and_attributes_that_documents_name_exist():
    for path in PAGES:
        for name in re.findall(r"`(kparallel(?:\.[A-Za-z_]\w*)+)[`(]", path.read_text()):
            assert name.endswith(".json") or resolves(name), f"{path.name} names {name}, which does not exist"


def resolves(name):
    """Whether a dotted name is a module or an attribute of one."""
    value = kparallel
    for part in name.split(".")[1:]:
        value = getattr(value, part, None)
    return value is not None


def test_each_row_of_the_readme_table_names_a_test():
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    for row in rows:
        assert re.search(r"`test_\w+(\[\w+\])?` \|$", row), row


def test_the_checks_script_runs_the_command_of_the_readme():
    blocks = re.findall(r"^```console\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    *_, last = (ROOT / ".ci" / "run").read_text().strip().splitlines()
    assert last in [block.strip() for block in blocks]
