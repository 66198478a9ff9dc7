"""Penalties on weights (`kernel_regularizer` and the like): functions of the weights alone, added once per step."""

from collections.abc import Callable

import tensorflow as tf

from kparallel.engine.replica import Replica
from kparallel.engine.replica_result import ReplicaResult
from kparallel.engine.sparse_gradients import accumulated
from kparallel.loss.read_weights import weights_read

__all__: list[str] = []


def add_regularization(
    replica: Replica,
    result: ReplicaResult,
    part: Callable[[], tf.Tensor],
    scaled: Callable[[tf.Tensor], tf.Tensor],
) -> tuple[ReplicaResult, list[tf.Tensor]]:
    """Add the gradients of the regularizers of all weights.

    A weight that several stages read is counted once, with the stage that owns it.

    Args:
        replica: The present replica.
        result: The result of its passes.
        part: Returns the fraction of the rows that this replica has, a float64 scalar. It is called only if there is a
            penalty, since it may need an all-reduce.
        scaled: Applies the optimizer's loss scale.

    Returns:
        The result with the gradients added, and this replica's summand of each penalty as a float64 scalar.
    """
    # (stage, weight, variable) of each weight, where it is owned.
    owned = [
        (s, w, variable)
        for s, stage in enumerate(replica.pipeline.stages)
        for w, variable in enumerate(stage.weights)
        if any(variable is each for each in stage.owned)
    ]
    places = [place for place in owned if place[2].regularizer is not None]
    if not places:
        return result, []
    fraction = part()
    gradients = [list(of_stage) for of_stage in result.gradients]
    values = []
    for s, w, variable in places:
        with tf.device(replica.devices[s]):
            # Keras computes penalties after the forward pass, so a value that a layer assigned in its call counts.
            weight = result.weight(s, w)
            # Persistent: which variables are read is known only after the recording.
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(weight)
                value = variable.regularizer(weight)
            # The same penalty on every replica: the fractions of the rows sum to 1, so it counts once.
            scale = tf.cast(scaled(fraction), value.dtype)
            gradients[s][w] = accumulated(gradients[s][w], tape.gradient(value, weight, output_gradients=scale))
            values.append(tf.cast(value, tf.float64) * fraction)
        # A regularizer of the user's own may compare its weight with another layer's, which then has a gradient too.
        others = weights_read(tape, [each for _, _, each in owned])
        for t, v, other in owned:
            if any(other is each for each in others):
                with tf.device(replica.devices[t]):
                    gradient = tape.gradient(value, other.value, output_gradients=scale)
                    # A lookup gives slices, which belong to no rows: they are made dense. `stop_gradient` gives None.
                    dense = None if gradient is None else tf.convert_to_tensor(gradient)
                    gradients[t][v] = accumulated(gradients[t][v], dense)
    return result.with_gradients(gradients), values
