"""An arm whose stages sleep: one device as plain Keras, and pipelines of several stages and microbatches."""

from typing import Any

from examples.benchmarks.child import Run, begin, serve

__all__: list[str] = []


def main() -> None:
    """Build every model, then serve.

    Options: `seconds` of one nap; `cells`: (schedule, devices, stages on each of them, microbatches); `parted`: the
    schedules whose backward passes have two naps.

    The variants are `"plain K M"`, K being the number of all stages, and `"SCHEDULE K M"`.
    """
    options = begin()
    import tensorflow as tf

    most = max(devices for _, devices, _, _ in options["cells"])
    tf.config.threading.set_inter_op_parallelism_threads(4 * most)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    import kparallel

    kparallel.virtual_devices(most)
    runs: dict[str, Run] = {}
    for schedule, devices, per_device, number in options["cells"]:
        stages = devices * per_device
        plain = f"plain {stages} {number}"
        if plain not in runs:
            runs[plain] = _run(_model(stages, options["seconds"], number), number)
        model = kparallel.wrap(
            _model(stages, options["seconds"], 1, parted=schedule in options["parted"]),
            replicas=1,
            stages=stages,
            microbatches=number,
            schedule=schedule,
            devices=[f"CPU:{index}" for index in range(devices)],
        )
        runs[f"{schedule} {stages} {number}"] = _run(model, number)
    serve(options, runs, {}, steps=1)  # They are traced, and a step of many naps takes a quarter of a minute.


def _model(stages: int, seconds: float, naps: int, parted: bool = False) -> Any:
    import keras

    from examples.benchmarks.nap import Nap

    layers = [Nap(seconds, naps, parted, name=f"stage{index}") for index in range(stages)]
    return keras.Sequential([keras.Input((1,)), *layers])


def _run(model: Any, rows: int) -> Run:
    """Return a function that calls what `fit` calls for each step, without what `fit` does once for each epoch."""
    import tensorflow as tf

    x = tf.ones((rows, 1))
    model.compile("sgd", "mse")
    model.fit(x, x, batch_size=rows, verbose=0)  # Builds metrics and the function.
    batches = iter(tf.data.Dataset.from_tensors((x, x)).repeat())

    def run(steps: int) -> None:
        for _ in range(steps):
            logs = model.train_function(batches)
        float(logs["loss"])

    return run


if __name__ == "__main__":
    main()
