"""Three stages on each of two devices, and what a function of them leaves in a graph."""

import keras
import tensorflow as tf

import kparallel
from tests.pairs import seeded


def stages_of(**options):
    """Return the stages of a model of three layers, wrapped over two replicas."""
    model = kparallel.wrap(
        seeded(lambda: keras.Sequential([keras.Input((2,)), *(keras.layers.Dense(2) for _ in range(3))])),
        replicas=2,
        stages=3,
        microbatches=1,
        devices=["CPU:0", "CPU:1"],
        **options,
    )
    return model._kparallel.pipeline(model).stages


def traced(work):
    """Return the graph of a function, and what it returned, as tensors of the graph."""
    found = []
    graph = tf.function(lambda: found.append(work()), autograph=False).get_concrete_function().graph
    return graph, found[0]
