"""Imports point down, and the pure floor imports no TensorFlow."""

import ast
from pathlib import Path

import kparallel

ROOT = Path(kparallel.__file__).parent
# From the floor upwards; a file imports only from its own layer's folder or from layers before it.
LAYERS = ["errors", "mesh", "cluster", "greeting", "barrier", "checkpoint", "schedule", "planning", "trace"]
LAYERS += [
    "compat",
    "devices",
    "collective",
    "data",
    "metric",
    "loss",
    "stage",
    "engine",
    "model",
    "callbacks",
    "launch",
    "__main__",
]
PURE = {"errors", "mesh", "cluster", "greeting", "barrier", "checkpoint", "schedule", "planning", "trace"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if layer != "__init__":
            yield layer, path


def test_every_file_has_a_layer():
    assert {layer for layer, _ in modules()} == set(LAYERS)


def test_imports_point_down():
    for layer, path in modules():
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "kparallel" and len(parts) > 1:
                assert LAYERS.index(parts[1]) <= LAYERS.index(layer), f"{path.name} imports {name}"


def test_the_floor_is_pure():
    for layer, path in modules():
        if layer in PURE:
            assert not [n for n in imports(path) if n.split(".")[0] in ("tensorflow", "keras")], path


def test_private_names_stand_in_one_package():
    for layer, path in modules():
        if layer != "compat":
            assert not [n for n in imports(path) if n.startswith(("keras.src", "tensorflow.python"))], path
