"""An arm that makes steps anew each time: what tracing costs, in stages and microbatches, and in plain layer calls."""

from typing import Any

from examples.benchmarks.child import Run, begin, serve

__all__: list[str] = []


def main() -> None:
    """Build, then serve; options: `stages`, `layers` of each stage, `microbatches` and `calls`: lists of two numbers.

    The variants are `"trace M"`, which traces `fit`'s step with M microbatches, `"first M"`, which also has TensorFlow
    optimize it and runs it once, and the same as `"trace calls N"` for a function that calls N layers.
    """
    options = begin()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    import kparallel

    kparallel.virtual_devices(options["stages"])
    runs: dict[str, Run] = {}
    for m in options["microbatches"]:
        runs[f"trace {m}"], runs[f"first {m}"] = _step(options, m)
    runs |= {f"trace calls {n}": _calls(n) for n in options["calls"]}
    serve(options, runs, {})


def _step(options: dict[str, Any], microbatches: int) -> tuple[Run, Run]:
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

    def trace(steps: int) -> None:
        for _ in range(steps):
            model.make_train_function(force=True)
            whole = tf.function(lambda batch: model.train_function(iter([batch])), autograph=False)
            whole.get_concrete_function((x, x))

    def first(steps: int) -> None:
        for _ in range(steps):
            model.make_train_function(force=True)
            float(model.train_function(batches)["loss"])

    return trace, first


def _calls(number: int) -> Run:
    import keras
    import tensorflow as tf

    layers = [keras.layers.Dense(16, activation="relu") for _ in range(number)]
    x = tf.ones((2, 16))
    for layer in layers:
        layer(x)

    def one_by_one(value: Any) -> Any:
        for layer in layers:
            value = layer(value)
        return value

    def run(steps: int) -> None:
        for _ in range(steps):
            tf.function(one_by_one, autograph=False).get_concrete_function(x)

    return run


if __name__ == "__main__":
    main()
