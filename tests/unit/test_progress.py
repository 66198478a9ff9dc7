"""Which data can be gone through once more, so that a training can be resumed within an epoch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kparallel.data.shards import Shards
from kparallel.resume.progress import has_own_hooks, why_only_epochs

ROWS = np.ones((4, 1))
NOISE = keras.layers.GaussianNoise(1.0)


class Plain(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return ROWS


class Reordered(Plain):
    def on_epoch_end(self):
        pass


def noisy(element):
    return NOISE(tf.cast(element, tf.float32)[None], training=True)


@pytest.mark.parametrize(
    ("x", "shuffle", "steps", "told"),
    [
        (ROWS, True, None, ""),
        (Shards(lambda *_: tf.data.Dataset.range(4), 2, seed=0), True, None, ""),
        (Shards(lambda *_: tf.data.Dataset.range(4).map(noisy), 2, seed=0), True, None, "changes a variable"),
        (Plain(), True, None, ""),
        (Plain(), True, 3, "steps_per_epoch"),
        (Plain(), False, 3, ""),
        (Plain(workers=2), True, None, "several workers"),
        (tf.data.Dataset.range(4).shuffle(4), False, None, "shuffles without a seed"),
        (tf.data.Dataset.range(4).shuffle(4, seed=1), False, None, ""),
        (iter([ROWS]), False, None, "cannot be read once more"),
    ],
)
def test_the_reason_is_told_in_words(x, shuffle, steps, told):
    why = why_only_epochs(x, None, shuffle, steps)
    assert told in why and bool(told) == bool(why)


def test_a_dataset_that_reorders_itself_is_told_from_one_that_does_not():
    assert has_own_hooks(Reordered()) and not has_own_hooks(Plain())
