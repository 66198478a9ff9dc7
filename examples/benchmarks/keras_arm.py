"""An arm that trains with Keras: plain, under stock `MirroredStrategy`, or wrapped."""

import math
from typing import Any

from examples.benchmarks.child import Run, begin, serve

__all__: list[str] = []


def main() -> None:
    """Build the model as the options say, then serve.

    Options: `work`; `kind`: `"plain"`, `"mirrored"` or `"wrapped"`; `batch`, the global one; `devices`, the number
    of virtual devices; `jit`, as `compile` takes it; `adam`, whether Adam
    updates rather than SGD; `variants`: for each the arguments of `kparallel.wrap`; of
    `"mirrored"` also `untuned`, whether tf.data's autotuning is off where a data set's options do not reach, and
    `one_device`, whether gradients are summed on one device rather than as the strategy decides.
    """
    options = begin()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    if options.get("untuned"):
        tf.data.experimental.enable_debug_mode()
    import kparallel
    from kparallel.cluster import read_one_program
    from kparallel.machines.program import join_servers

    machines = read_one_program()
    if machines is None:
        kparallel.init()
    else:
        join_servers(machines, devices=None, timeout=120.0, heartbeat=60.0, token="")
    if options.get("devices", 1) > 1:
        kparallel.virtual_devices(options["devices"])
    from examples.benchmarks.keras_models import batches

    dataset = batches(options["work"], options["batch"])
    models = {name: _model(options, wrap) for name, wrap in options.get("variants", {"": {}}).items()}
    runs = {name: _fit(model, dataset) for name, model in models.items()}
    parameters = sum(math.prod(weight.shape) for weight in next(iter(models.values())).trainable_weights)
    serve(options, runs, {"parameters": parameters})


def _model(options: dict[str, Any], wrap: dict[str, Any]) -> Any:
    import tensorflow as tf

    import kparallel
    from examples.benchmarks.keras_models import build, compile_model

    adam = options.get("adam", False)
    if options["kind"] == "mirrored":
        devices = [f"CPU:{index}" for index in range(options["devices"])]
        reduction = tf.distribute.ReductionToOneDevice() if options.get("one_device") else None
        with tf.distribute.MirroredStrategy(devices, reduction).scope():
            model = build(options["work"])
            compile_model(model, adam=adam)
        return model
    model = build(options["work"])
    if options["kind"] == "wrapped":
        model = kparallel.wrap(model, **wrap)
    compile_model(model, options.get("jit", "auto"), adam)
    return model


def _fit(model: Any, dataset: Any) -> Run:
    def run(steps: int) -> None:
        model.fit(dataset.take(steps), epochs=1, verbose=0, shuffle=False)

    return run


if __name__ == "__main__":
    main()
