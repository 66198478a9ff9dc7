"""The arguments of calls of a model's methods."""

import keras
import pytest

from kparallel.model.arguments import named, takes


class Own(keras.Model):
    def fit(self, x, y=None, *, rounds=3):
        """Names of its own."""

    def predict(self, *args, **kwargs):
        """Passes on what it gets."""

    def compile(model, critic, *args, **kwargs):  # noqa: N805
        """Calls the model otherwise, and passes on what is not its own."""


def test_places_become_names_those_of_keras_where_a_method_passes_them_on():
    assert named(Own.fit, (1, 2), {"rounds": 4}) == {"x": 1, "y": 2, "rounds": 4}
    assert named(Own.predict, (1, 8), {"steps": 2}) == {"x": 1, "batch_size": 8, "steps": 2}
    with pytest.raises(TypeError, match="multiple values for argument 'x'"):
        named(Own.fit, (1,), {"x": 2})


def test_a_method_may_call_the_model_as_it_likes_and_have_arguments_before_those_it_passes_on():
    found = named(Own.compile, ("sgd", "adam", "mse"), {"metrics": ["mae"]})
    assert found == {"critic": "sgd", "optimizer": "adam", "loss": "mse", "metrics": ["mae"]}
    with pytest.raises(TypeError, match="takes 2 arguments by their places, received 3"):
        named(Own.fit, (1, 2, 3), {})


def test_a_method_takes_what_it_names_or_passes_on():
    assert takes(Own.fit, "rounds") and not takes(Own.fit, "epochs") and takes(Own.predict, "anything")
