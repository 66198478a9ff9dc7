"""Numbers and flags that a model keeps in Python, but for Keras's own."""

import keras

from kparallel.ownstep.attributes import Attributes


def test_what_has_changed_since_the_last_call_is_named():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.count = 1
    attributes = Attributes(model)
    assert attributes.changed() == []
    model.count, model.started, model.kept = 2, True, [1, 2]
    model.build((None, 3))  # Sets what Keras keeps of a model that is built.
    assert attributes.changed() == ["count", "started"]
    assert attributes.changed() == []
    model.count, model.started = 3, False
    assert attributes.changed((bool,)) == ["started"]
