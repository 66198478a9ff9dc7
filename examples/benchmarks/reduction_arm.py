"""An arm of two workers that reduce the bytes of a model's gradients and do nothing else: over each kind of ring."""

from collections.abc import Callable
from typing import Any

from examples.benchmarks.child import Run, begin, serve

__all__: list[str] = []


def main() -> None:
    """Make tensors of the model's shapes, then serve; a step is one all-reduce of them all.

    Options: `work`; `packs`: for each variant the bytes of a pack of TensorFlow's, 0 for one pack of all, or None for
    kparallel's own exchange.
    """
    options = begin()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    import kparallel
    from kparallel.comm.group import TFWorkerGroup
    from kparallel.comm.join import cluster_strategy, peer_connections
    from kparallel.comm.ring_communicator import RingCommunicator
    from kparallel.comm.tf_collectives import TFCommunicator

    kparallel.init()
    strategy, links = cluster_strategy(), peer_connections()
    assert strategy is not None and links is not None
    index, devices = strategy.cluster_resolver.task_id, strategy.extended.worker_devices
    rings = links.rings(1, TFWorkerGroup(strategy, 2, index))
    assert rings is not None
    own = RingCommunicator(devices, rings[0], TFCommunicator(devices, strategy, 2, index), index)
    from examples.benchmarks.keras_models import build

    values = [tf.ones(weight.shape) for weight in build(options["work"]).trainable_weights]

    def tensorflow(bytes_per_pack: int) -> Callable[[list[Any]], Any]:
        communication = tf.distribute.experimental.CommunicationOptions(
            bytes_per_pack=bytes_per_pack,
            implementation=tf.distribute.experimental.CommunicationImplementation.RING,
        )
        operation = tf.distribute.ReduceOp.SUM
        return lambda given: tf.distribute.get_replica_context().all_reduce(operation, given, communication)

    def reduction(total: Callable[[list[Any]], Any]) -> Run:
        @tf.function(autograph=False)
        def step() -> None:
            strategy.run(lambda: total([tf.identity(value) for value in values]))

        def run(steps: int) -> None:
            for _ in range(steps):
                step()

        return run

    runs = {
        name: reduction(own.all_reduce if size is None else tensorflow(size)) for name, size in options["packs"].items()
    }
    serve(options, runs, {"bytes": sum(4 * int(tf.size(value)) for value in values)})


if __name__ == "__main__":
    main()
