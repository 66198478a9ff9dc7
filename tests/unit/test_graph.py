"""A functional model as one list of calls: nested models are opened, numbers say what is read."""

import keras

from kparallel.stage.graph import attach_mask, open_graph

L = keras.layers


def block():
    x = keras.Input((4,))
    return keras.Model(x, L.Add(name="add")([x, L.Dense(4, name="dense")(x)]), name="block")


def test_a_nested_model_is_opened_and_its_values_are_numbered():
    x = keras.Input((4,))
    inner = block()
    model = keras.Model(x, L.Dense(1, name="head")(inner(inner(x))))
    graph = open_graph(model)
    names = ["block/dense", "block/add", "block/dense", "block/add", "head"]
    assert [call.name for call in graph.calls] == names
    assert [tuple(number for _, number in call.reads) for call in graph.calls] == [(0,), (0, 1), (2,), (2, 3), (4,)]
    assert [call.writes for call in graph.calls] == [(1,), (2,), (3,), (4,), (5,)]
    assert graph.calls[0].operation is graph.calls[2].operation, "the model's own layer, not a copy"
    assert (graph.inputs, graph.outputs) == ((0,), (5,)) and len(graph.specs) == 6


def test_a_mask_that_goes_into_a_nested_model_is_attached():
    tokens = keras.Input((5,), dtype="int32")
    embedded = L.Embedding(7, 3, mask_zero=True)(tokens)
    y = keras.Input((5, 3))
    nested = keras.Model(y, L.LSTM(2)(y), name="nested")
    mask = keras.ops.not_equal(tokens, 0)
    graph = open_graph(keras.Model(tokens, nested(embedded, mask=mask)))
    [attaches] = [call for call in graph.calls if call.operation is attach_mask]
    assert attaches.name == "nested/mask" and len(attaches.reads) == 2


def test_what_overrides_call_or_is_called_otherwise_stays_closed():
    class Own(keras.Model):
        def call(self, x):
            return 2 * x

    assert open_graph(Own()) is None
    x = keras.Input((4,))
    graph = open_graph(keras.Model(x, block()(x, training=False)))
    assert [call.name for call in graph.calls] == ["block"]
