"""Keras's own tests pass with the models that they compile wrapped, but for those that are known to fail."""

from fnmatch import fnmatch

import pytest

from tests.keras_suite.known import KNOWN
from tests.keras_suite.plugin import MODES
from tests.keras_suite.run import SOURCES, deviations, modules

# Some of each kind, quick ones; `full` has all.
TRAINER = "trainers/trainer_test.py::TestTrainer::"
CHOSEN = [
    "callbacks/early_stopping_test.py::EarlyStoppingTest::test_early_stopping_reuse",
    "callbacks/learning_rate_scheduler_test.py",
    "callbacks/reduce_lr_on_plateau_test.py::ReduceLROnPlateauTest::test_reduces_lr_with_model_fit",
    TRAINER + "test_fit_flow_graph_fn",
    TRAINER + "test_fit_with_data_adapter_py_dataset",
    TRAINER + "test_metric_update_in_compute_loss",
    TRAINER + "test_nested_inputs",
    TRAINER + "test_partial_loss_partial_label",
    "saving/saving_lib_test.py::SavingTest::test_compile_preserved_custom_functional",
    "saving/saving_lib_test.py::SavingTest::test_compile_preserved_basic_sequential",
]
PARTS = sorted(path.name for path in SOURCES.iterdir() if path.is_dir() and modules(path.name))
WRAPPED = [mode for mode, plan in MODES.items() if plan]


def check(tests, mode, folder):
    """Make sure that exactly those tests fail that are known to fail wrapped."""
    found, faults = deviations(tests, mode, folder)
    known = {name for name in found for pattern in KNOWN[mode] if fnmatch(name, pattern)}
    assert faults.keys() <= known, {name: faults[name] for name in faults.keys() - known}
    assert known <= faults.keys(), f"pass, so take them off the list: {known - faults.keys()}"
    return found


@pytest.mark.parametrize("mode", ["replicas", pytest.param("stages", marks=pytest.mark.full)])
def test_a_choice_of_kerass_tests_passes_wrapped(mode, tmp_path):
    found = check(CHOSEN, mode, tmp_path)
    assert sum(outcome.wrapped for outcome in found.values()) >= 5


@pytest.mark.full
@pytest.mark.parametrize("mode", WRAPPED)
@pytest.mark.parametrize("part", PARTS)
def test_all_of_kerass_tests_pass_wrapped(part, mode, tmp_path):
    found = check(modules(part), mode, tmp_path)
    patterns = [pattern for pattern in KNOWN[mode] if pattern.startswith(f"{part}/")]
    stale = [pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in found)]
    assert not stale, f"Keras has no such test: {stale}"
