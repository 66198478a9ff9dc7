"""An arm that trains on two devices by Keras's own step or by a step of the user's own, compared before or not."""

import resource
from typing import Any

from examples.benchmarks.child import begin, serve

__all__: list[str] = []


def main() -> None:
    """Train, then serve; options: `work`, `batch`, `own`, whether the step is one's own, `check` as `wrap` takes it.

    The variants are `"steps"`, and `"first"`, which makes the step anew and runs it, once at each call: it is traced,
    compared unless `check` is `"off"`, and optimized by TensorFlow. Facts: `grown`, by how many bytes the peak memory
    grew in the very first step.
    """
    options = begin()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    import kparallel

    kparallel.virtual_devices(2)
    from examples.benchmarks.keras_models import batches, compile_model

    model = kparallel.wrap(_model(options), replicas=2, check=options["check"])
    compile_model(model)
    dataset = batches(options["work"], options["batch"])
    for _ in dataset.take(1):
        before = _peak()
    model.fit(dataset.take(1), verbose=0, shuffle=False)
    grown = _peak() - before

    def steps(number: int) -> None:
        model.fit(dataset.take(number), verbose=0, shuffle=False)

    def first(_: int) -> None:
        model.make_train_function(force=True)
        steps(1)

    serve(options, {"steps": steps, "first": first}, {"grown": grown})


def _model(options: dict[str, Any]) -> Any:
    """Return the work's model with one layer of the user's own, which is compared in Keras's own step too."""
    import keras
    import tensorflow as tf

    from examples.benchmarks.keras_models import build

    class Same(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return tf.identity(x)

    class Stepping(keras.Model):  # type: ignore[misc]
        """The step of Keras's guide."""

        def train_step(self, data: Any) -> dict[str, Any]:
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            for metric in self.metrics:
                metric.update_state(loss, sample_weight=tf.shape(x)[0])
            return {metric.name: metric.result() for metric in self.metrics}

    plain = build(options["work"])
    return (Stepping if options["own"] else keras.Model)(plain.inputs, Same()(plain.outputs[0]))


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
