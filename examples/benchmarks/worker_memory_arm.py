"""An arm of a worker that tells how many bytes TensorFlow holds in its process, for a Transformer of 12 blocks.

These are the live bytes of all tensors and variables, from the counters of TensorFlow's allocator. The process itself
does not shrink when tensors go: it keeps what it had before the first step. The peak counts from one step to a later
one: before the first step, and where the workers' weights come together after the last one, each process has all.
"""

import gc
import json
from typing import Any

from examples.benchmarks.child import begin, serve

__all__: list[str] = []

_BLOCKS, _WIDTH, _HEADS, _TOKENS, _BATCH = 12, 512, 4, 32, 16
_FIRST, _LAST = 1, 4  # The steps after which the peak begins to count, and is read.


def main() -> None:
    """Train; options: `shard`, as `kparallel.wrap` takes it, and `workers`.

    Facts: `peak` and `rest`, the live bytes of each worker in a step and between steps, and `state`, the bytes of all
    weights, gradients and slots.
    """
    options = begin()
    import kparallel

    kparallel.init()
    from kparallel.cluster import read_cluster

    assert read_cluster() is not None
    seen, model = _trained(options)
    each = [json.loads(text) for text in model._kparallel.placement.group.all_gather_text(json.dumps(seen))]
    facts = {key: [of_one[key] for of_one in each] for key in ("peak", "rest")}
    # Four bytes for each number, and as many for its gradient and two slots.
    serve(options, {}, facts | {"state": 16 * model.count_params()})


def _trained(options: dict[str, Any]) -> tuple[dict[str, int], Any]:
    """Train a model; return the live bytes of this process, and the model."""
    import keras
    import numpy as np
    import tensorflow as tf

    import kparallel
    from examples.benchmarks.transformer import transformer

    seen: dict[str, int] = {}

    class Peak(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == _FIRST:
                gc.collect()
                seen["rest"] = tf.config.experimental.get_memory_info("CPU:0")["current"]
                tf.config.experimental.reset_memory_stats("CPU:0")
            if batch == _LAST:
                seen["peak"] = tf.config.experimental.get_memory_info("CPU:0")["peak"]

    model = kparallel.wrap(
        transformer(_BLOCKS, _WIDTH, _HEADS, _TOKENS),
        replicas=options["workers"],
        stages=_BLOCKS,
        microbatches=1,
        devices=["CPU:0"],
        shard=options["shard"],
    )
    model.compile("adam", "mse")
    x = np.ones((_BATCH * (_LAST + 1), _TOKENS, _WIDTH), "float32")
    model.fit(x, x, batch_size=_BATCH, verbose=0, shuffle=False, callbacks=[Peak()])
    return seen, model


if __name__ == "__main__":
    main()
