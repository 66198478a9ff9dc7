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


class Own(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        (Own(name="mine"), r"'mine' \(Own\), whose call is Python of its own\. Express it as"),
        (
            keras.Sequential(name="mine"),
            r"'mine' \(Sequential\), which has no weights yet\. Begin it with a",
        ),
    ],
)
def test_a_model_without_one_is_refused(model, cause):
    with pytest.raises(PlanError, match=f"a built Functional or Sequential model for a test, received {cause}"):
        required_graph(None, model, "for a test")
