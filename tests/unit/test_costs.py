"""The figures by which a model is cut."""

import keras
import pytest

from kparallel.stage.costs import profile
from kparallel.stage.graph import open_graph


def units(*layers, shape=(3,), dtype="float32"):
    return profile(open_graph(keras.Sequential([keras.Input(shape, dtype=dtype), *layers])))


def test_a_dense_layer_multiplies_and_adds_for_each_weight():
    (unit,) = units(keras.layers.Dense(5))
    # 3 x 5 products and sums, and 5 numbers to which a bias is added; 4 bytes each.
    assert unit.flops_per_row == 2 * 15 + 5 and unit.parameters == 20
    assert (unit.weight_bytes, unit.largest_bytes, unit.frozen_bytes) == (80, 60, 0)
    assert unit.activation_bytes_per_row == unit.output_bytes_per_row == 20


def test_each_position_uses_the_weights_and_a_lookup_uses_none():
    (unit,) = units(keras.layers.Dense(5, use_bias=False), shape=(7, 3))
    assert unit.flops_per_row == 7 * (2 * 15 + 5)
    (unit,) = units(keras.layers.Embedding(100, 5), shape=(7,), dtype="int32")
    assert unit.flops_per_row == 7 * 5 and unit.parameters == 500


@pytest.mark.parametrize(("heads", "size"), [(2, 4)])
def test_attention_keeps_its_scores(heads, size):
    x = keras.Input((6, 3))
    layer = keras.layers.MultiHeadAttention(heads, size, use_bias=False)
    (unit,) = profile(open_graph(keras.Model(x, layer(x, x))))
    numbers = heads * (2 * 6 * 6 + size * (2 * 6 + 2 * 6))  # Scores twice; queries, results, keys and values.
    assert unit.activation_bytes_per_row == 4 * (6 * 3 + numbers)
    weights = 4 * 3 * heads * size
    assert unit.flops_per_row == 2 * weights * 6 + 6 * 3 + 4 * heads * size * 6 * 6


def test_what_is_frozen_has_no_gradient_and_a_shared_layer_counts_once():
    frozen, shared = keras.layers.Dense(3), keras.layers.Dense(3)
    frozen.trainable = False
    first, second, third = units(frozen, shared, shared)
    assert (first.frozen_bytes, first.largest_bytes) == (48, 0)
    assert (second.parameters, third.parameters) == (12, 0) and third.reads == (1,)


def test_a_recurrent_layer_has_its_time_steps():
    x = keras.layers.LSTM(2, return_sequences=True)
    both = keras.layers.Bidirectional(keras.layers.GRU(2))
    assert [unit.loop_steps for unit in units(x, both, keras.layers.Dense(1), shape=(7, 3))] == [7, 14, 0]


def test_calls_that_change_one_state_stay_together():
    norm = keras.layers.BatchNormalization()
    assert [unit.stays_with for unit in units(norm, keras.layers.Dense(3), norm)] == [None, None, 0]
