"""Gradients that are weighted where they begin, at a loss, and not at each of the weights where they end.

```text
at the weights     loss ◄── 1 ─── activations ◄── 1 ─── kernel       gradient times 3/5
at the loss        loss ◄── 3/5 ─ activations ◄── 3/5 ─ kernel       gradient
```

It saves a product for each weight. And what the user's code does to gradients on their way, as a `tf.custom_gradient`
that clips them, it does to the numbers that it would get on one device: of a mean, one part in the batch's rows.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kparallel.ownstep.portion import scaled

__all__: list[str] = []


def scaled_outputs(target: Any, weights: Sequence[Any], factor: Any) -> Any:
    """Return the output gradients by which a tape gives gradients times a factor, or None if they would lose digits.

    Args:
        target: What is differentiated, a structure.
        weights: By which.
        factor: A number of Python's, or a float64 scalar.
    """
    leaves = tf.nest.flatten(target)
    # In a loss of float16 a third is no third of what weights of float32 are to get.
    digits = max((tf.as_dtype(weight.dtype).size for weight in weights), default=0)
    plain = all(isinstance(leaf, tf.Tensor) and leaf.dtype.is_floating and leaf.dtype.size >= digits for leaf in leaves)
    if not plain:
        return None
    return tf.nest.map_structure(lambda leaf: scaled(tf.ones_like(leaf), factor), target)
