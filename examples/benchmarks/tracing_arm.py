"""An arm that makes steps anew each time: what tracing costs, in stages and microbatches, and in plain layer calls."""

from typing import Any

from examples.benchmarks.child import Run, begin, serve

__all__: list[str] = []


def main() -> None:
    """Build, then serve; options: `stages`, `layers` of each stage, `microbatches` and `calls`: lists of two numbers.

    The variants are `"step M"`, the first step of `fit` with M microbatches, and `"calls N"`, a function that calls N
    layers. Both are traced, optimized by TensorFlow and run once.
    """
    options = begin()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    import kparallel

    kparallel.virtual_devices(options["stages"])
    runs: dict[str, Run] = {f"step {m}": _step(options, m) for m in options["microbatches"]}
    runs |= {f"calls {n}": _calls(n) for n in options["calls"]}
    serve(options, runs, {})


def _step(options: dict[str, Any], microbatches: int) -> Run:
    import keras
    import tensorflow as tf

    import kparallel

    stages = options["stages"]
    layers = [keras.layers.Dense(16, activation="relu") for _ in range(stages * options["layers"])]
    model = kparallel.wrap(
        keras.Sequential([keras.Input((16,)), *layers]), replicas=1, stages=stages, microbatches=microbatches
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    x = tf.ones((2 * microbatches, 16))
    model.fit(x, x, batch_size=len(x), verbose=0)
    batches = iter(tf.data.Dataset.from_tensors((x, x)).repeat())

    def run(steps: int) -> None:
        for _ in range(steps):
            model.make_train_function(force=True)
            float(model.train_function(batches)["loss"])

    return run


def _calls(number: int) -> Run:
    import keras
    import tensorflow as tf

    layers = [keras.layers.Dense(16, activation="relu") for _ in range(number)]
    x = tf.ones((2, 16))
    for layer in layers:
        layer(x)

    def run(steps: int) -> None:
        for _ in range(steps):
            float(tf.reduce_sum(tf.function(keras.Sequential(layers).call, autograph=False)(x)))

    return run


if __name__ == "__main__":
    main()
