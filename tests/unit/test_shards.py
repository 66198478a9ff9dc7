"""Shards of record files and of TensorFlow Datasets: every row once an epoch, in an order of (seed, epoch)."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel import errors
from kparallel.compat.epochs import why_unrepeatable
from tests.pairs import pair


def write(folder, sizes):
    """Write record files of so many rows each; a record is its row's number."""
    files, number = [], 0
    for index, size in enumerate(sizes):
        files.append(str(folder / f"{index}.tfrecord"))
        with tf.io.TFRecordWriter(files[-1]) as writer:
            for _ in range(size):
                writer.write(str(number).encode())
                number += 1
    return files


def parse(record):
    return tf.strings.to_number(record)


def epoch_of(shards, workers, epoch):
    shards.epoch = epoch
    return [
        [int(row) for batch in shards.batches(worker, workers) for row in batch.numpy().tolist()]
        for worker in range(workers)
    ]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(5, 0, 2, 4), (11,)])
@pytest.mark.filterwarnings("ignore:1 files for")
def test_every_record_comes_once_an_epoch_in_an_order_of_seed_and_epoch(tmp_path, workers, sizes):
    files = write(tmp_path, sizes)
    shards = kparallel.read_records(files, parse, batch_size=4, seed=7)
    first, second = (epoch_of(shards, workers, epoch) for epoch in (0, 1))
    for rows in (first, second):
        assert sorted(sum(rows, [])) == list(range(11))
    assert first != second
    again = kparallel.read_records(files, parse, batch_size=4, seed=7)
    assert epoch_of(again, workers, 1) == second
    other = kparallel.read_records(files, parse, batch_size=4, seed=8)
    assert epoch_of(other, workers, 1) != second


def test_too_few_files_are_read_by_element_and_said(tmp_path):
    shards = kparallel.read_records(write(tmp_path, (7,)), parse, batch_size=4, shuffle=0)
    with pytest.warns(UserWarning, match="1 files for 2 workers"):
        assert epoch_of(shards, 2, 0) == [[0, 2, 4, 6], [1, 3, 5]]


def test_tensorflow_datasets_are_read_in_even_splits(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "process"))
    __import__("tiny_images")
    kinds = {"data_dir": str(tmp_path), "prepare": lambda image, label: tf.reduce_sum(tf.cast(image, tf.int64))}
    whole = epoch_of(kparallel.read_tfds("tiny_images", "train", batch_size=8, **kinds), 1, 0)[0]
    parts = kparallel.read_tfds("tiny_images", "train", batch_size=8, **kinds)
    for epoch in (0, 1):
        read = epoch_of(parts, 3, epoch)
        assert sorted(sum(read, [])) == sorted(whole)
        assert max(map(len, read)) - min(map(len, read)) <= 1
    assert why_unrepeatable(parts.batches(0, 2)) == ""
    sys.modules.pop("tiny_images")


# Keras says so at the end of data whose length it does not know.
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_fit_on_two_replicas_equals_plain(tmp_path):
    files = write(tmp_path, (5, 6))

    def row(record):
        number = tf.strings.to_number(record)
        return number[None], number[None] % 3

    def build():
        inputs = keras.Input((1,))
        return keras.Model(inputs, keras.layers.Dense(1)(inputs))

    plain, wrapped = pair(build, replicas=2)
    data = tf.data.TFRecordDataset(files).map(row).batch(4).apply(tf.data.experimental.assert_cardinality(3))
    shards = kparallel.read_records(files, row, batch_size=4, shuffle=0)
    histories = []
    for model, x in ((plain, data), (wrapped, shards)):
        model.compile(keras.optimizers.SGD(0.01), "mse")
        histories.append(model.fit(x, epochs=2, verbose=0, class_weight={0: 1.0, 1: 2.0, 2: 0.5}).history["loss"])
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-5)
    np.testing.assert_allclose(wrapped.get_weights()[0], plain.get_weights()[0], rtol=1e-5)


def test_refusals(tmp_path):
    with pytest.raises(errors.DataError, match="at least one file"):
        kparallel.read_records([], parse, batch_size=4)
    with pytest.raises(errors.DataError, match="exist.*lost"):
        kparallel.read_records([tmp_path / "lost"], parse, batch_size=4)
    shards = kparallel.read_records(write(tmp_path, (3,)), parse, batch_size=1)
    with pytest.raises(errors.DataError, match="at least 2 rows"):
        shards.batches(1, 2)
