"""A plan that needs the graph of a model says so of one that has none."""

import keras
import pytest

from kparallel.errors import PlanError
from kparallel.model.required_graph import required_graph
from kparallel.stage.graph import open_graph


def test_a_graph_is_returned():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    graph = open_graph(model)
    assert required_graph(graph, model, "for a test") is graph


def test_a_model_without_one_is_refused():
    with pytest.raises(PlanError, match="Expected a built Functional or Sequential model for a test, received 'mine'"):
        required_graph(None, keras.Sequential(name="mine"), "for a test")
