"""A pytest plugin that wraps every model which a test compiles: `pytest -p tests.keras_suite.plugin --wrap stages`."""

import functools
import importlib.util
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType

import keras
import pytest
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer
from keras.src.trainers.trainer import Trainer

import kparallel
from kparallel.compat.graph import functional_nodes, inner_functional

# Keyword arguments of `wrap` by mode; None leaves the models as they are.
MODES = {
    "plain": None,
    "replicas": {"replicas": 2},
    "stages": {"replicas": 1, "stages": 2, "microbatches": 2},
}
# What a test's class, or the functions of its module, say where it trains a model.
TRAINS = (".compile(", "run_layer_test(")
MARKERS = ("requires_trainable_backend", "requires_tpu", "multi_device", "skipif_backend")


def pytest_addoption(parser):
    parser.addoption("--wrap", choices=list(MODES), default="plain", help="how models are wrapped when compiled")
    parser.addoption("--outcomes", type=Path, help="file that each test's outcome is written to")


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: a marker of Keras's own tests")
    kparallel.virtual_devices(4)
    takeover = Takeover(MODES[config.getoption("--wrap")])
    takeover.install()
    config.pluginmanager.register(StandIns())
    if config.getoption("--outcomes"):
        config.pluginmanager.register(Outcomes(config.getoption("--outcomes"), takeover))


def pytest_collection_modifyitems(config, items):
    """Leave out the tests of a class that trains nothing, thousands in the modules of Keras's operations."""
    trains = functools.cache(lambda source: any(word in inspect.getsource(source) for word in TRAINS))
    kept = [item for item in items if any(trains(source) for source in sources(item))]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


@functools.cache
def functions_of(module):
    """Return the functions of a module that stand in no class."""
    return [each for each in vars(module).values() if inspect.isfunction(each) and each.__module__ == module.__name__]


def sources(item):
    """Return what a test may call of its own module: its function or its class, with the bases, and the functions."""
    kinds = inspect.getmro(item.cls) if item.cls else [item.function]
    own = [kind for kind in kinds if kind.__module__ == item.module.__name__]
    return [*own, *functions_of(item.module)]


class Takeover:
    """Wraps each model behind its `compile`.

    Args:
        plan: Keyword arguments of `kparallel.wrap`, or None.
    """

    def __init__(self, plan):
        self.plan = plan
        self.count = 0

    def install(self):
        plain = Trainer.compile

        @functools.wraps(plain)
        def compile_and_wrap(model, *args, **kwargs):
            plain(model, *args, **kwargs)
            self.take(model)

        Trainer.compile = compile_and_wrap

    def take(self, model):
        """Wrap a model in place, unless it is wrapped, or not one that can have stages where these are wanted."""
        if self.plan is None or not isinstance(model, keras.Model) or hasattr(model, "unwrap"):
            return
        if "stages" in self.plan and not can_be_cut(model):
            return
        assert kparallel.wrap(model, **self.plan) is model
        self.count += 1


def can_be_cut(model):
    """Whether a model is a graph of several calls, built."""
    graph = inner_functional(model) if model.built else None
    return graph is not None and len(list(functional_nodes(graph))) > 1


class StandIns:
    """What Keras's test modules need to be imported, and to have models, here."""

    def __init__(self):
        self.patch = pytest.MonkeyPatch()

    def pytest_collection(self):
        """Let modules import jax for one test of many, and the `conftest` that is not in the wheel."""
        if importlib.util.find_spec("jax") is None:
            self.patch.setitem(sys.modules, "jax", ModuleType("jax"))
        conftest = ModuleType("conftest")
        conftest.skip_if_backend = skip_if_backend
        self.patch.setitem(sys.modules, "conftest", conftest)

    def pytest_collection_finish(self, session):
        self.patch.undo()
        for module in {item.module for item in session.items}:
            for kind in vars(module).values():
                make_model(kind)


def skip_if_backend(backend, reason):
    """Skip a test on one backend: what Keras's own `conftest` gives its tests."""
    return pytest.mark.skipif(keras.config.backend() == backend, reason=reason)


def make_model(kind):
    """Make a class a Model which mixes the trainer with a layer, as the trainer's own tests have it."""
    bases = getattr(kind, "__bases__", ())
    if len(bases) == 2 and bases[0] is TensorFlowTrainer:
        kind.__bases__ = (bases[1], keras.Model) if bases[1] is not keras.layers.Layer else (keras.Model,)


class Outcomes:
    """Writes for each test its outcome, how many models it wrapped, and the last line of its error.

    Args:
        path: A JSON file.
        takeover: Counts the models.
    """

    def __init__(self, path, takeover):
        self.path = path
        self.takeover = takeover
        self.found = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        name = report.nodeid.removeprefix("keras/src/")
        if report.failed or (call.when == "call" and name not in self.found) or report.skipped:
            message = call.excinfo.exconly() if call.excinfo and report.failed else ""
            self.found[name] = {
                "outcome": report.outcome,
                "message": message,
                "wrapped": self.takeover.count,
                "seconds": round(call.duration, 1),
            }
        return report

    def pytest_runtest_setup(self):
        self.takeover.count = 0

    def pytest_sessionfinish(self):
        self.path.write_text(json.dumps(self.found, indent=1))
