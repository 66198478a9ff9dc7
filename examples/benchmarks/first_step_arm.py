"""An arm that takes one first step and one step on a batch of another size, and tells CPU seconds and memory."""

import resource
import time
from typing import Any

from examples.benchmarks.child import begin, serve

__all__: list[str] = []


def main() -> None:
    """Fit a model once, then answer; options: `kind`, and `wrap`: the arguments of `kparallel.wrap`, None for plain.

    The kinds are `"dense"` (40 Dense layers), `"own"` (the same with a `train_step` of its own) and `"densenet"`.
    """
    options = begin()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    import kparallel

    kparallel.virtual_devices(8)
    # What TensorFlow does once in a process is no part of a first step.
    _fit(_dense(2), None, 8)
    arguments = options["wrap"]
    model = _densenet() if options["kind"] == "densenet" else _dense(40, own=options["kind"] == "own")
    parts = (arguments or {}).get("replicas", 1) * (arguments or {}).get("microbatches", 1)
    rows = 2 * max(4, parts)
    first, model = _fit(model, arguments, rows)
    # Each part has one row less.
    size, _ = _fit(model, None, rows - max(4, parts))
    memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux tells kilobytes.
    serve(options, {}, {"first step": first, "another size": size, "memory": memory})


def _fit(model: Any, arguments: dict[str, Any] | None, rows: int) -> tuple[float, Any]:
    """Return the CPU seconds of a step on so many rows, and the model, wrapped if there are arguments."""
    import tensorflow as tf

    import kparallel

    start = time.process_time()
    model = model if arguments is None else kparallel.wrap(model, **arguments)
    if not model.compiled:
        model.compile("adam", "mse")
    x, y = tf.ones((rows, *model.input_shape[1:])), tf.ones((rows, *model.output_shape[1:]))
    model.fit(x, y, batch_size=rows, verbose=0)
    return time.process_time() - start, model


def _dense(layers: int, own: bool = False) -> Any:
    import keras
    import tensorflow as tf

    class Own(keras.Model):  # type: ignore[misc]
        def train_step(self, data: Any) -> dict[str, Any]:
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(y=y, y_pred=self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            return {"loss": loss}

    x = inputs = keras.Input((16,))
    for _ in range(layers):
        x = keras.layers.Dense(16, activation="relu")(x)
    return (Own if own else keras.Model)(inputs, x)


def _densenet() -> Any:
    import keras

    return keras.applications.DenseNet121(weights=None, input_shape=(32, 32, 3), classes=10)


if __name__ == "__main__":
    main()
