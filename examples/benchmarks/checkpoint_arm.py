"""An arm that takes checkpoints of one model: what training waits for, and the whole of a synchronous save."""

import tempfile
from pathlib import Path

from examples.benchmarks.child import begin, serve

__all__: list[str] = []


def main() -> None:
    """Build, then serve; options: `layers`, `width`.

    The variants are `"snapshot"`, for which training stands still, and `"save"`, which writes the snapshot as well.
    """
    options = begin()
    import keras
    import tensorflow as tf

    import kparallel
    from kparallel.checkpoint.folder import FolderWriter
    from kparallel.resume.snapshot import take_snapshot, weight_file_of

    kparallel.virtual_devices(2)
    width = options["width"]
    layers = [keras.layers.Dense(width, activation="relu") for _ in range(options["layers"])]
    model = kparallel.wrap(keras.Sequential([keras.Input((width,)), *layers]), replicas=2)
    model.compile("adam", "mse")
    rows = tf.ones((8, width))
    model.fit(rows, rows, verbose=0)
    weight_file = weight_file_of(model)
    weight_file.capture()
    weight_file.prepare()
    with tempfile.TemporaryDirectory() as folder:

        def snapshot(steps: int) -> None:
            for _ in range(steps):
                take_snapshot(weight_file, {})

        def save(steps: int) -> None:
            for _ in range(steps):
                FolderWriter(Path(folder), 2).write(take_snapshot(weight_file, {}))

        serve(options, {"snapshot": snapshot, "save": save}, {})


if __name__ == "__main__":
    main()
