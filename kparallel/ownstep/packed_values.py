"""Small values that the replicas sum as a few vectors: each tensor on its own travels to the first device and back.

```text
replica 0   total, count ─► [total, count] ──┐
replica 1   total, count ─► [total, count] ──┴─► sums ─► total, count on both
```
"""

from collections.abc import Callable

import tensorflow as tf

from kparallel.comm.packs import sum_by_dtype

__all__: list[str] = []


def added_in_packs(add: Callable[[list[tf.Tensor]], list[tf.Tensor]], values: list[tf.Tensor]) -> list[tf.Tensor]:
    """Sum tensors over the replicas, those of one dtype together.

    Args:
        add: Sums each tensor that it is given.
        values: Of known shapes, which are the same on all replicas.
    """

    def total(packs: list[list[tf.Tensor]]) -> list[tf.Tensor]:
        sums = add([_joined(pack) for pack in packs])
        return [part for pack, whole in zip(packs, sums, strict=True) for part in _parts(whole, pack)]

    return sum_by_dtype(total, values)


def _joined(pack: list[tf.Tensor]) -> tf.Tensor:
    if len(pack) == 1:
        return pack[0]
    if not any(value.shape.rank for value in pack):
        return tf.stack(pack)
    return tf.concat([tf.reshape(value, [-1]) for value in pack], 0)


def _parts(whole: tf.Tensor, pack: list[tf.Tensor]) -> list[tf.Tensor]:
    if len(pack) == 1:
        return [whole]
    if not any(value.shape.rank for value in pack):
        return list(tf.unstack(whole, len(pack)))
    parts = tf.split(whole, [value.shape.num_elements() for value in pack])
    return [tf.reshape(part, value.shape) for part, value in zip(parts, pack, strict=True)]
