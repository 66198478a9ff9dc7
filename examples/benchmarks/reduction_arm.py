"""An arm of two workers that reduce the bytes of a model's gradients with TensorFlow's ring, and do nothing else."""

from examples.benchmarks.child import Run, begin, serve

__all__: list[str] = []


def main() -> None:
    """Make tensors of the model's shapes, then serve; a step is one all-reduce of them all.

    Options: `work`; `packs`: bytes of a pack for each variant, 0 for one pack of all.
    """
    options = begin()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    import kparallel
    from kparallel.collective.cluster import cluster_strategy

    kparallel.init()
    strategy = cluster_strategy()
    assert strategy is not None
    from examples.benchmarks.keras_models import build

    values = [tf.ones(weight.shape) for weight in build(options["work"]).trainable_weights]

    def reduction(bytes_per_pack: int) -> Run:
        communication = tf.distribute.experimental.CommunicationOptions(
            bytes_per_pack=bytes_per_pack,
            implementation=tf.distribute.experimental.CommunicationImplementation.RING,
        )

        def one() -> list[tf.Tensor]:
            context = tf.distribute.get_replica_context()
            given = [tf.identity(value) for value in values]
            return list(context.all_reduce(tf.distribute.ReduceOp.SUM, given, communication))

        @tf.function
        def step() -> None:
            strategy.run(one)

        def run(steps: int) -> None:
            for _ in range(steps):
                step()

        return run

    runs = {name: reduction(size) for name, size in options["packs"].items()}
    serve(options, runs, {"bytes": sum(4 * int(tf.size(value)) for value in values)})


if __name__ == "__main__":
    main()
