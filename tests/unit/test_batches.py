"""The batches that Keras's loops read."""

import weakref

import pytest
import tensorflow as tf

from kparallel.data.batches import Batches, WholeBatchStrategy
from kparallel.errors import DataError


def test_a_pass_is_counted_when_it_begins_and_its_batches_are_watched():
    batches, seen = Batches([1, 2]), []
    batches.watch = lambda number, batch: seen.append((number, batch))
    first, second = iter(batches), iter(batches)
    assert batches.passes == 2
    assert (next(second), next(first), next(first)) == (1, 1, 2)
    assert seen == [(2, 1), (1, 1), (1, 2)]


def test_a_change_is_applied_before_a_batch_is_seen():
    batches, seen = Batches([1, 2], lambda batch: 10 * batch), []
    batches.watch = lambda number, batch: seen.append(batch)
    assert list(batches) == seen == [10, 20]


def test_only_data_that_never_had_a_batch_are_refused():
    with pytest.raises(DataError, match="at least one batch, received an empty one"):
        list(Batches([]))
    rows = [1]
    batches = Batches(rows)
    assert list(batches) == [1]
    rows.clear()
    assert list(batches) == []


def test_a_spec_is_known_without_a_batch_and_scalars_are_refused():
    dataset = tf.data.Dataset.from_tensors((tf.ones([4, 3]), tf.ones([4])))
    assert [spec.shape.rank for spec in Batches(dataset).spec()] == [2, 1]
    with pytest.raises(DataError, match="whose first dim is the rows"):
        Batches(tf.data.Dataset.from_tensors(1.0)).spec()


def test_a_dataset_stays_whole_and_all_else_is_the_strategys():
    strategy = WholeBatchStrategy(tf.distribute.get_strategy(), reading := set())
    batches = strategy.experimental_distribute_dataset([1, 2])
    assert list(batches) == [1, 2] and strategy.experimental_distribute_dataset(batches) is batches
    assert strategy.num_replicas_in_sync == 1 and reading == {batches}


def test_a_pass_that_is_closed_lets_go_of_its_iterator():
    class Rows:
        def __iter__(self):
            self.rows = (row for row in range(3))
            kept.append(weakref.ref(self.rows))
            return self.__dict__.pop("rows")

    kept = []
    batches = Batches(Rows())
    passes = [iter(batches), iter(batches)]
    assert next(passes[0]) == 0 and all(each() for each in kept)
    batches.close()
    assert not any(each() for each in kept) and [list(each) for each in passes] == [[], []]
    assert list(batches) == [0, 1, 2] and not kept[2]()
