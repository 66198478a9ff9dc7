"""The arguments of calls of a model's methods."""

import keras
import pytest

from kparallel.model.arguments import named, takes


class Own(keras.Model):
    def fit(self, x, y=None, *, rounds=3):
        """Names of its own."""

    def predict(self, *args, **kwargs):
        """Passes on what it gets."""


def test_places_become_names_those_of_keras_where_a_method_passes_them_on():
    assert named(Own.fit, (1, 2), {"rounds": 4}) == {"x": 1, "y": 2, "rounds": 4}
    assert named(Own.predict, (1, 8), {"steps": 2}) == {"x": 1, "batch_size": 8, "steps": 2}
    with pytest.raises(TypeError, match="multiple values for argument 'x'"):
        named(Own.fit, (1,), {"x": 2})


def test_a_method_takes_what_it_names_or_passes_on():
    assert takes(Own.fit, "rounds") and not takes(Own.fit, "epochs") and takes(Own.predict, "anything")
