"""The measured time of a model's whole pass, forward and backward: what the times of its calls have to add up to.

```text
calls      one, one, one ... │ two, two, two ...     each alone, again and again: its weights stay in the cache
a pass     one, two, three ... three, two, one       each once, on every device at once, with weights of its own
```

What the calls leave out is the way to the memory.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.functions import traced
from kparallel.compat.graph import call_operation, one_model_call
from kparallel.stage.body import trained
from kparallel.stage.costs import median_time
from kparallel.stage.graph import Graph

__all__: list[str] = []


def whole_pass(graph: Graph, x: list[Any], repeats: int = 5, devices: Sequence[str] = ("",)) -> float:
    """Return the median time of one forward and backward pass on one batch, in seconds.

    Args:
        graph: An opened graph.
        x: The model's flat inputs for a few rows.
        repeats: The number of timed passes, after one that is not timed.
        devices: Where the pass runs at the same time, as in `kparallel.stage.costs.measured`.
    """
    layers = [call.operation for call in graph.calls if isinstance(call.operation, keras.layers.Layer)]
    variables = list({id(v): v for layer in layers for v in layer.variables}.values())
    trains = {id(v) for v in trained(layers)}
    # `[device][variable]`: each device has weights of its own, as replicas do.
    copies = []
    for name in devices:
        with tf.device(name or None):
            copies.append([tf.identity(v.value) for v in variables])

    def on_one(values: list[tf.Tensor]) -> list[tf.Tensor]:
        weights = [value for v, value in zip(variables, values, strict=True) if id(v) in trains]
        known: dict[int, Any] = dict(zip(graph.inputs, x, strict=True))
        with tf.GradientTape() as tape, keras.StatelessScope(list(zip(variables, values, strict=True))):
            tape.watch(weights)
            with one_model_call(training=True):
                for call in graph.calls:
                    arguments = {key: known[number] for key, number in call.reads}
                    outputs = call_operation(call.operation, call.arguments, arguments, True)
                    known.update(zip(call.writes, outputs, strict=True))
            results = [known[number] for number in graph.outputs if known[number].dtype.is_floating]
        gradients = tape.gradient(results, weights)
        tensors = [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients if g is not None]
        # Sums are returned: what only a control dependency reads TensorFlow turns into nothing, with all before it.
        return [tf.reduce_sum(tensor) for tensor in [*tensors, *results]]

    def on_all(of_devices: list[list[tf.Tensor]]) -> list[tf.Tensor]:
        sums = []
        for name, values in zip(devices, of_devices, strict=True):
            with tf.device(name or None):
                sums += on_one(values)
        return sums

    return median_time(traced(on_all), copies, repeats)


def scaled(times: Sequence[float], whole: float) -> list[float]:
    """Return times of calls that add up to the time of their whole pass, each with its share.

    Args:
        times: Of each call, in seconds.
        whole: Of the pass, in seconds.

    Example:
        >>> scaled([1.0, 3.0], 8.0)
        [2.0, 6.0]
    """
    total = math.fsum(times)
    return [each * whole / total for each in times] if total else [whole / len(times) for _ in times]
