"""Imports point down, and the pure floor imports no TensorFlow."""

import ast
from pathlib import Path

import kparallel

ROOT = Path(kparallel.__file__).parent
# From the floor upwards; a file imports only from its own layer's folder or from layers before it.
FLOOR = [
    "errors",
    "mesh",
    "cluster",
    "launcher_pipes",
    "attendance",
    "handshake",
    "rendezvous",
    "checkpoint",
    "schedule",
    "planning",
    "forecast",
    "trace",
]
LAYERS = [
    *FLOOR,
    "compat",
    "model_variables",
    "devices",
    "comm",
    "machines",
    "data",
    "metric",
    "loss",
    "stage",
    "engine",
    "ownstep",
    "resume",
    "workers",
    "model",
    "callbacks",
    "selftest",
    "launcher",
    "__main__",
]
PURE = set(FLOOR)


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


def private_attributes(path):
    """Yield the private attributes that a file reads or writes on anything but its own object."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = node.value.func if isinstance(node.value, ast.Call) else node.value
            # `super()` is the object itself; these of `sys`, `os` and named tuples are documented.
            documented = node.attr in ("_replace", "_asdict", "_fields")
            if not documented and not (
                isinstance(owner, ast.Name) and owner.id in ("self", "cls", "super", "sys", "os")
            ):
                yield node.attr


def own_private_names():
    """Return the private names that the package itself defines: methods, and attributes of `self`."""
    names = {"_kparallel"}  # What a wrapped model carries.
    for _, path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name) and node.value.id == "self":
                    names.add(node.attr)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
    return names


def test_private_attributes_of_others_stand_in_one_package():
    own = own_private_names()
    for layer, path in modules():
        if layer != "compat":
            assert not set(private_attributes(path)) - own, path


def test_each_private_attribute_of_others_is_named_by_a_test():
    tests = (Path(__file__).parent / "test_compat.py").read_text()
    for layer, path in modules():
        if layer == "compat":
            missing = {name for name in private_attributes(path) if name not in tests}
            assert not missing, f"tests/unit/test_compat.py names none of {sorted(missing)}, which {path.name} uses"


TESTS = Path(__file__).parents[1]
PATCHES = ("setattr", "delattr", "setitem", "patch", "object")


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def reached_privates(path, own):
    """Yield the private names of the package that a test imports, reads or patches."""
    tree = ast.parse(path.read_text())
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kparallel"):
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Attribute) and node.attr in own - defined:
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PATCHES:
            texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            names = {text.rpartition(".")[2] for text in texts if isinstance(text, str)}
            yield from names & own


def names_of_the_package(*layers):
    """Return the private names that some layers define: functions, classes, constants, attributes of `self`."""
    names = set()
    for layer, path in modules():
        if layer in layers:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    names.add(node.name)
                elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
                    names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return {name for name in names if is_private(name)}


def test_no_test_reaches_a_private_name_of_the_package():
    """A test goes through arguments and public functions: what is private may change without it."""
    # What `compat` defines and reads in private is that of TensorFlow and Keras. `_kparallel` is what a model carries.
    foreign = set().union(*(private_attributes(path) for layer, path in modules() if layer == "compat"))
    own = names_of_the_package(*LAYERS) - names_of_the_package("compat") - foreign - {"_kparallel"}
    for path in TESTS.rglob("*.py"):
        reached = set(reached_privates(path, own))
        assert not reached, f"{path.relative_to(TESTS)} reaches {sorted(reached)}"
