"""An arm that trains the MLP with legacy `tf_keras` under `MirroredStrategy`."""

from examples.benchmarks.child import begin, serve

__all__: list[str] = []


def main() -> None:
    """Build the model, then serve. Options: `work`, `batch`, `devices`."""
    options = begin()
    import numpy as np
    import tensorflow as tf
    import tf_keras

    from examples.benchmarks.work import CLASSES, LEARNING_RATE, MLP_INPUTS, MLP_LAYERS, MLP_WIDTH, MOMENTUM

    tf.config.threading.set_intra_op_parallelism_threads(1)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * options["devices"])
    layers = tf_keras.layers
    with tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(options["devices"])]).scope():
        hidden = [layers.Dense(MLP_WIDTH, activation="relu") for _ in range(MLP_LAYERS)]
        model = tf_keras.Sequential([layers.Input((MLP_INPUTS,)), *hidden, layers.Dense(CLASSES)])
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(tf_keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM), loss)
    rng = np.random.default_rng(0)
    rows = 4 * options["batch"]
    x, y = rng.normal(size=(rows, MLP_INPUTS)).astype("float32"), rng.integers(0, CLASSES, rows)
    settings = tf.data.Options()
    settings.autotune.enabled = False
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(options["batch"], drop_remainder=True).repeat()
    data = data.with_options(settings)

    def run(steps: int) -> None:
        model.fit(data.take(steps), epochs=1, verbose=0)

    serve(options, {"": run}, {"parameters": model.count_params()})


if __name__ == "__main__":
    main()
