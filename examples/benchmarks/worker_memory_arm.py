"""An arm of a worker that tells how much memory its process takes in training steps, for a Transformer of 12 blocks.

Weights, gradients, slots and activations are what the process of the model takes more than that of a narrow one, which
has as many operations, traces and threads. The peak counts from one step to a later one: before the first step, and
where the workers' weights come together after the last one, each process has all of them.
"""

import gc
import json
from pathlib import Path
from typing import Any

from examples.benchmarks.child import begin, serve

__all__: list[str] = []

_BLOCKS, _HEADS, _TOKENS, _BATCH = 12, 4, 32, 16
_WIDTH, _NARROW = 512, 16
_FIRST, _LAST = 1, 4  # The steps after which the peak begins to count, and is read.


def main() -> None:
    """Train; options: `shard`, as `kparallel.wrap` takes it, and `workers`.

    Facts: `peaks` and `rest`, the bytes of each worker's process in a step and between steps, and `state`, the bytes of
    all weights, gradients and slots.
    """
    options = begin()
    import kparallel

    kparallel.init()
    from kparallel.cluster import read_cluster

    assert read_cluster() is not None
    narrow, _ = _grown(_NARROW, options)
    wide, model = _grown(_WIDTH, options)
    own = json.dumps({key: wide[key] - narrow[key] for key in wide})
    each = [json.loads(text) for text in model._kparallel.placement.group.all_gather_text(own)]
    facts = {key: [of_one[key] for of_one in each] for key in ("peak", "rest")}
    # Four bytes for each number, and as many for its gradient and two slots.
    serve(options, {}, facts | {"state": 16 * model.count_params()})


def _grown(width: int, options: dict[str, Any]) -> tuple[dict[str, int], Any]:
    """Train a model of some width; return by how many bytes it makes this process grow, and the model."""
    import keras
    import numpy as np

    import kparallel
    from examples.benchmarks.transformer import transformer

    seen: dict[str, int] = {}

    class Peak(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == _FIRST:
                gc.collect()
                seen["rest"] = _status("VmRSS")
                Path("/proc/self/clear_refs").write_text("5")  # The peak counts anew.
            if batch == _LAST:
                seen["peak"] = _status("VmHWM")

    gc.collect()
    before = _status("VmRSS")
    model = kparallel.wrap(
        transformer(_BLOCKS, width, _HEADS, _TOKENS),
        replicas=options["workers"],
        stages=_BLOCKS,
        microbatches=1,
        devices=["CPU:0"],
        shard=options["shard"],
    )
    model.compile("adam", "mse")
    x = np.ones((_BATCH * (_LAST + 1), _TOKENS, width), "float32")
    model.fit(x, x, batch_size=_BATCH, verbose=0, shuffle=False, callbacks=[Peak()])
    return {key: value - before for key, value in seen.items()}, model


def _status(key: str) -> int:
    """Return the bytes that Linux tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    main()
