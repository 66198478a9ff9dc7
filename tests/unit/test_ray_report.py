"""Reports to Ray Train, of which a stand-in takes the place."""

import sys
from types import ModuleType, SimpleNamespace

import keras
import pytest

from kparallel.callbacks.ray_report import RayReport


@pytest.fixture
def reports(monkeypatch):
    """Return what is reported to Ray: the metrics, and the names of the files in the checkpoint."""
    taken = []

    def report(metrics, checkpoint):
        taken.append((metrics, checkpoint))

    ray, train = ModuleType("ray"), ModuleType("ray.train")
    train.report = report
    train.Checkpoint = SimpleNamespace(from_directory=lambda folder: sorted(file.name for file in folder.iterdir()))
    ray.train = train
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.train", train)
    return taken


def end_epoch(callback):
    callback.set_model(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    callback.on_epoch_end(0, {"loss": 2, "mae": 3.0})


def test_the_model_goes_along_as_a_plain_keras_file(reports):
    end_epoch(RayReport())
    assert reports == [({"loss": 2.0, "mae": 3.0}, ["model.keras"])]


def test_some_metrics_are_reported_without_a_checkpoint(reports):
    end_epoch(RayReport(["mae"], checkpoint=False))
    assert reports == [({"mae": 3.0}, None)]
    with pytest.raises(KeyError, match="accuracy"):
        end_epoch(RayReport(["accuracy"]))


def test_a_worker_that_writes_no_file_reports_all_the_same(reports, monkeypatch):
    monkeypatch.setattr(keras.Model, "save", lambda self, path: None)
    end_epoch(RayReport())
    assert reports == [({"loss": 2.0, "mae": 3.0}, None)]


def test_without_ray_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'kparallel\[ray\]'"):
        RayReport()
