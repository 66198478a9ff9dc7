"""What travels together between workers."""

import random

import tensorflow as tf

from kparallel.comm.packs import ALONE, LAST, PACK, WORTH, by_dtype, packs, packs_of_owners, sum_by_dtype


def test_each_tensor_travels_once_in_packs_of_bounded_size():
    source = random.Random(0)
    for _ in range(200):
        sizes = [int(source.lognormvariate(11, 3)) for _ in range(source.randint(0, 40))]
        grouped = packs(sizes)
        assert sorted(index for pack in grouped for index in pack) == list(range(len(sizes)))
        for pack in grouped:
            assert pack == sorted(pack, reverse=True), "in the order of the backward pass"
            assert len(pack) == 1 or sum(sizes[index] for index in pack) <= PACK
            assert len(pack) == 1 or max(sizes[index] for index in pack) < ALONE


def test_what_waits_for_the_last_gradient_is_small_where_another_collective_is_worth_it():
    sizes = [WORTH // 8] * 16
    *early, last = packs(sizes)
    assert sum(sizes[index] for index in last) <= LAST * sum(sizes) and 0 in last
    assert sum(sizes[index] for pack in early for index in pack) >= WORTH
    assert packs([WORTH // 8] * 4) == [[3, 2, 1, 0]]


def test_a_pack_has_one_dtype_and_sums_come_back_in_their_places():
    seen = []

    def doubled(grouped):
        seen.extend({value.dtype for value in pack} for pack in grouped)
        return [2 * value for pack in grouped for value in pack]

    values = [tf.constant([1.0]), tf.constant([2.0], tf.float64), tf.constant([[3.0]]), tf.constant(4)]
    assert [value.numpy().tolist() for value in sum_by_dtype(doubled, values)] == [[2.0], [4.0], [[6.0]], 8]
    assert all(len(dtypes) == 1 for dtypes in seen) and len(seen) == 3


def test_a_pack_of_owners_has_about_as_much_for_each_worker():
    generator = random.Random(0)
    for _ in range(50):
        sizes = [generator.choice([100, ALONE, PACK]) for _ in range(generator.randrange(1, 30))]
        owners = [generator.randrange(2) for _ in sizes]
        grouped = packs_of_owners(sizes, owners)
        assert sorted(index for pack in grouped for index in pack) == list(range(len(sizes)))
        assert [max(pack) for pack in grouped] == sorted((max(pack) for pack in grouped), reverse=True)
        for pack in grouped:
            assert [owners[index] for index in pack] == sorted(owners[index] for index in pack)
        for pack in grouped[:-1]:
            held = [sum(sizes[index] for index in pack if owners[index] == owner) for owner in set(owners)]
            assert sum(held) >= PACK and 2 * min(held) >= max(held)


def test_tensors_of_owners_come_back_in_their_places():
    values = [tf.constant([1.0]), tf.constant([2.0], tf.float64), tf.constant([3.0])]
    carried = []

    def carry(pack):
        carried.append(pack)
        return [10 * values[index] for index in pack]

    assert [float(value[0]) for value in by_dtype(values, [1, 0, 0], carry)] == [10, 20, 30]
    assert carried == [[2, 0], [1]]  # A pack has one dtype, and is sorted by owner.
