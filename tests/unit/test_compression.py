"""What half the bytes cost in exactness, and that nothing but gradients is rounded."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel.comm.compression import compressed, restored
from kparallel.comm.packs import ALONE, PACK, packs
from kparallel.errors import PlanError
from tests.choice import some


def trained(way: str | None, replicas: int = 2) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(9, activation="tanh"), keras.layers.Dense(1)])
    kparallel.wrap(model, replicas=replicas, gradient_compression=way)
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    rng = np.random.default_rng(0)
    model.start = model.get_weights()
    model.log = model.fit(rng.normal(size=(10, 6)), rng.normal(size=(10, 1)), batch_size=10, verbose=0).history
    return model


@pytest.mark.parametrize(("way", "bits"), some([("bfloat16", 8), ("float16", 11)], ("bfloat16", 8)))
def test_a_compressed_step_differs_by_the_rounding_that_is_stated(way: str, bits: int) -> None:
    exact, rounded = trained(None), trained(way)
    # Two gradients and their sum are rounded, each to half a unit in the last place of the larger of them.
    bound = 3 * 2.0**-bits
    for start, one, other in zip(exact.start, exact.get_weights(), rounded.get_weights(), strict=True):
        size = np.abs(one - start).max()
        assert 0 < np.abs(one - other).max() <= 2 * bound * size
    assert rounded.log == exact.log  # Losses and metrics of the step are not compressed.
    for variable in rounded.trainable_variables:
        copies = [np.asarray(copy) for copy in variable.value.values]
        np.testing.assert_array_equal(copies[0], copies[1])


def test_one_replica_sends_nothing_and_rounds_nothing() -> None:
    for one, other in zip(trained(None, 1).get_weights(), trained("bfloat16", 1).get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_slices_keep_their_indices_and_half_precision_gradients_their_dtype() -> None:
    slices = tf.IndexedSlices(tf.constant([[1.0, 2.0]]), tf.constant([3]), tf.constant([5, 2]))
    given = [tf.constant([1.0 + 2.0**-12]), slices, tf.constant([1.0], tf.float16)]
    sent = compressed(given, "bfloat16")
    assert [value.dtype for value in sent] == [tf.bfloat16, tf.bfloat16, tf.float16]
    back = restored(sent, given)
    assert [value.dtype for value in back] == [tf.float32, tf.float32, tf.float16]
    assert back[0].numpy() == [1.0] and back[1].indices is slices.indices


def test_an_unknown_way_is_refused_before_anything_is_built() -> None:
    with pytest.raises(
        PlanError, match=r"Expected gradient_compression None, 'bfloat16' or 'float16', received 'int8'"
    ):
        kparallel.wrap(lambda: pytest.fail("built"), gradient_compression="int8")


def test_packs_hold_every_tensor_once_large_ones_alone_and_late_ones_first() -> None:
    sizes = [100, ALONE, 5000, ALONE - 1, *[PACK // 3] * 4, 8, 3 * PACK]
    grouped = packs(sizes)
    assert sorted(index for pack in grouped for index in pack) == list(range(len(sizes)))
    assert all(len(pack) == 1 for pack in grouped if max(sizes[index] for index in pack) >= ALONE)
    assert all(sum(sizes[index] for index in pack) <= PACK for pack in grouped if len(pack) > 1)
    assert grouped[0] == [len(sizes) - 1]
    assert packs([]) == []


def test_the_pack_that_waits_for_the_last_gradient_is_a_small_part() -> None:
    half = ALONE // 2
    assert packs([10, half - 10]) == [[1, 0]]  # Less than half a megabyte is not worth an exchange of its own.
    assert packs([half // 5, half]) == [[1], [0]]
    assert packs([half, 10]) == [[1, 0]]  # Most of it is the last.
    for sizes in ([50_000] * 15, [ALONE // 8] * 80, [1000, *[ALONE // 3] * 7]):
        grouped = packs(sizes)
        assert [index for pack in grouped for index in pack] == list(reversed(range(len(sizes))))
        assert sum(sizes[index] for index in grouped[-1]) <= sum(sizes) / 5
