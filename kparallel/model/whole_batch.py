"""A batch whole, of which each replica has its own rows: a comparison with one device needs all of them.

```text
worker 0   dense rows ──────────────────► all-gather ───────────────┬─► all workers' rows, on each
           strings, ragged, sparse rows ► bytes ─► gathered as text ┘
```
"""

import base64
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kparallel.comm.group import WorkerGroup
from kparallel.compat.functions import traced
from kparallel.model.functions import first_share
from kparallel.model.runtime import Runtime

__all__: list[str] = []


def whole_batch(batch: Any, runtime: Runtime) -> Any:
    """Return a batch whole, which may come divided between the replicas of all workers. Each worker has to call it.

    Args:
        batch: As the dataset yields it: a leaf that is divided has the rows of each of this process's replicas.
        runtime: Where they run.
    """
    leaves = keras.tree.flatten(batch)
    divided = [index for index, leaf in enumerate(leaves) if isinstance(leaf, tf.distribute.DistributedValues)]
    rows = {index: runtime.strategy.experimental_local_results(leaves[index]) for index in divided}
    group = runtime.placement.group
    if group.is_single:
        whole = {index: concatenated(parts) for index, parts in rows.items()}
    else:
        # Dense rows may be many, and go from device to device.
        dense = [index for index in divided if _is_dense(rows[index][0])]
        others = [index for index in divided if index not in dense]
        whole = dict(zip(dense, _gathered([leaves[index] for index in dense], runtime), strict=True))
        whole |= zip(others, gathered_as_text([concatenated(rows[index]) for index in others], group), strict=True)
    return keras.tree.pack_sequence_as(batch, [whole.get(index, leaf) for index, leaf in enumerate(leaves)])


def concatenated(parts: Sequence[Any]) -> Any:
    """Return the rows of some tensors, of any kind, as one."""
    if isinstance(parts[0], tf.SparseTensor):
        return tf.sparse.concat(0, list(parts))
    return tf.concat(list(parts), 0)


def gathered_as_text(values: Sequence[Any], group: WorkerGroup) -> list[Any]:
    """Return the rows of all workers of tensors of any kind: of strings, ragged or sparse.

    Args:
        values: This worker's. The other workers have as many, of the same kinds and dtypes.
        group: The workers.
    """
    if not values:
        return []
    parts = [part for value in values for part in _dense_parts(value)]
    # One word for each tensor, in an alphabet without blanks.
    own = " ".join(base64.b64encode(tf.io.serialize_tensor(part).numpy()).decode() for part in parts)
    of_workers = []  # `[worker][value]`.
    for text in group.exchange("gathers the first batch", own):
        tensors = iter(
            tf.io.parse_tensor(base64.b64decode(word), part.dtype)
            for word, part in zip(text.split(), parts, strict=True)
        )
        of_workers.append([_of_dense_parts(value, tensors) for value in values])
    return [concatenated(of_all) for of_all in zip(*of_workers, strict=True)]


def _is_dense(value: Any) -> bool:
    return isinstance(value, tf.Tensor) and value.dtype != tf.string


def _dense_parts(value: Any) -> list[tf.Tensor]:
    """Return the dense tensors of which a tensor is made."""
    if isinstance(value, tf.SparseTensor):
        return [value.indices, value.values, value.dense_shape]
    if isinstance(value, tf.RaggedTensor):
        return [value.flat_values, *value.nested_row_splits]
    return [value]


def _of_dense_parts(like: Any, tensors: Any) -> Any:
    """Return a tensor of another worker's, of the kind of this worker's, made of the next of some dense tensors."""
    some = [next(tensors) for _ in _dense_parts(like)]
    if isinstance(like, tf.SparseTensor):
        return tf.SparseTensor(*some)
    return tf.RaggedTensor.from_nested_row_splits(some[0], some[1:]) if isinstance(like, tf.RaggedTensor) else some[0]


def _gathered(leaves: list[Any], runtime: Runtime) -> list[tf.Tensor]:
    """Return the rows of all workers of what is dense and divided between the replicas."""
    communicator = runtime.placement.communicators[-1]

    def of_all(*parts: Any) -> list[tf.Tensor]:
        return [tf.concat(rows, 0) for rows in communicator.all_gather(list(parts))]

    @traced
    def gathered(*parts: Any) -> Any:
        return runtime.strategy.run(of_all, args=parts)

    return list(first_share(runtime, gathered(*leaves))) if leaves else []
