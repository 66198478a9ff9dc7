"""Whether a step is faster where the replicas share the optimizer out."""

import pytest

from kparallel.planning.sharding import WORTH, TrainedBytes, saved_bytes, sharding_pays


@pytest.mark.parametrize(
    ("trained", "slots", "replicas", "workers", "pays"),
    [
        (TrainedBytes(dense=4 * 7_608_330), 1, 2, 1, True),  # The MLP of the benchmarks under SGD with momentum.
        (TrainedBytes(dense=4 * 7_608_330), 1, 2, 2, True),
        (TrainedBytes(dense=1e3, sliced=4 * 200_000 * 32), 2, 2, 1, True),  # Adam moves every row of a table.
        (TrainedBytes(dense=1e3, sliced=4 * 200_000 * 32), 2, 2, 2, False),  # The table would travel each time.
        (TrainedBytes(dense=1e3, sliced=4 * 200_000 * 32), 0, 2, 1, False),  # SGD moves the rows of a batch alone.
        (TrainedBytes(dense=4e5), 2, 8, 1, False),  # Small weights.
        (TrainedBytes(dense=4.2e6), 2, 2, 1, True),  # 64 Dense layers of 128 under Adam.
        (TrainedBytes(dense=1e12), 2, 1, 1, False),  # Nobody to share with.
    ],
)
def test_it_pays_where_updates_are_large_and_little_travels(trained, slots, replicas, workers, pays):
    assert sharding_pays(trained, slots, replicas, workers) is pays


def test_more_replicas_save_more_and_a_model_just_large_enough_pays():
    trained = TrainedBytes(dense=WORTH * 2 / 7)
    assert sharding_pays(trained, 2, 2)
    assert not sharding_pays(TrainedBytes(trained.dense * 0.99), 2, 2)
    assert saved_bytes(trained, 2, 4) == 1.5 * saved_bytes(trained, 2, 2)
