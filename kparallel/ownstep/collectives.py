"""What the replicas may tell one another inside a step or a loss of the user's own."""

from typing import Any

import tensorflow as tf

from kparallel.compat.steps import running_step

__all__: list[str] = []


def gather(tensor: Any) -> tf.Tensor:
    """Return all replicas' rows of a tensor, in the order of the batch, inside a training step or a loss of your own.

    A step runs on each replica's share of the rows. One that compares rows with one another (SimCLR, CLIP, triplets in
    the batch), or keeps rows in a queue, needs those of the whole batch. The gradient is right: of a loss over all
    rows that every replica computes, and of one of a replica's own rows against all.

    Args:
        tensor: The rows are its first dim. Replicas may have different numbers of rows, or none.

    Returns:
        The rows of the whole batch, equal on every replica. Outside a wrapped model's step: the tensor itself.

    Raises:
        ModelError: It is called inside a `tf.function`, a condition or a loop of TensorFlow's in the step.

    Example:
        >>> gather(tf.constant([1.0, 2.0])).numpy()  # No step runs here: these are all rows.
        array([1., 2.], dtype=float32)
    """
    tensor = tf.convert_to_tensor(tensor)
    # Outside of a step there is one replica, which has all rows.
    step = running_step()
    return _of_all(tensor) if step is None else step.gather(tensor)


def all_reduce(tensor: Any) -> tf.Tensor:
    """Return the sum of a tensor over the replicas, inside a training step or a loss of your own.

    For sums over rows that the step needs of the whole batch, such as the counts of a codebook or the denominator of a
    ratio. The gradient is right, as `gather`'s is.

    Args:
        tensor: A sum over this replica's rows. A replica without rows counts as 0.

    Returns:
        The sum, equal on every replica. Outside a wrapped model's step: the tensor itself.

    Raises:
        ModelError: It is called inside a `tf.function`, a condition or a loop of TensorFlow's in the step.

    Example:
        >>> float(all_reduce(2.0))  # No step runs here.
        2.0
    """
    tensor = tf.convert_to_tensor(tensor)
    step = running_step()
    return _of_all(tensor) if step is None else step.total(tensor)


def _of_all(tensor: tf.Tensor) -> tf.Tensor:
    """Return a tensor so that the graph of a loss tells that it is to be of all rows.

    A loss outside of a user's own step is computed from the outputs of the whole batch where its graph is neither a
    mean nor a sum over rows. Some, such as products of rows with rows, look like one that is.
    """
    if tf.executing_eagerly():
        return tensor
    if tensor.shape.rank and tensor.shape[0] is None:
        # How many rows it returns seems to depend on their values, which makes it `OTHER`; it returns all of them.
        return tf.boolean_mask(tensor, tf.ones(tf.shape(tensor)[:1], tf.bool))
    # `OTHER` as well, because it is not linear: the larger of a value and itself.
    return tf.maximum(tensor, tensor)
