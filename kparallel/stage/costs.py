"""What a model's calls cost: arithmetic, weights, bytes kept and sent. The planner cuts by these figures.

Arithmetic is estimated from shapes, not measured: two operations for each multiplication, weights times the
places at which they are used, and one operation for each number of an elementwise call. `measured` runs the calls.
"""

import math
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.functions import traced
from kparallel.compat.graph import call_operation
from kparallel.compat.layers import flatten_layers, seed_states
from kparallel.planning.units import Unit
from kparallel.stage.body import trained
from kparallel.stage.graph import Call, Graph
from kparallel.stage.stage import averaged_states

__all__: list[str] = []


def profile(graph: Graph) -> tuple[Unit, ...]:
    """Return one unit for each call of an opened graph.

    A dim of unknown size counts as 1. A layer that is called twice has its weights counted at its first call.
    """
    writer = {number: index for index, call in enumerate(graph.calls) for number in call.writes}
    seen: set[int] = set()
    changed: dict[int, int] = {}
    units: list[Unit] = []
    for call in graph.calls:
        layer = call.operation if isinstance(call.operation, keras.layers.Layer) else None
        variables = [] if layer is None else [v for v in layer.variables if id(v) not in seen]
        seen.update(id(v) for v in variables)
        trains = set() if layer is None else {id(v) for v in trained([layer])}
        output = sum(_bytes(graph.specs[number]) for number in call.writes)
        units.append(
            Unit(
                name=call.name,
                flops_per_row=_flops(call, graph),
                parameters=sum(_count(v.shape) for v in variables),
                weight_bytes=sum(_bytes_of(v.shape, v.dtype) for v in variables),
                frozen_bytes=sum(_bytes_of(v.shape, v.dtype) for v in variables if id(v) not in trains),
                activation_bytes_per_row=output + _inner_bytes(call, graph),
                output_bytes_per_row=output,
                reads=tuple(dict.fromkeys(writer[number] for _, number in call.reads if number in writer)),
                layers=() if layer is None else (call.name,),
                stays_with=None if layer is None else _first_to_change(layer, len(units), changed),
            )
        )
    return tuple(units)


def _first_to_change(layer: keras.layers.Layer, unit: int, changed: dict[int, int]) -> int | None:
    """Return the first unit that changes a state of this layer, and note those that no unit before has changed."""
    states = seed_states(layer) | averaged_states(flatten_layers(layer))
    first = min((changed[state] for state in states if state in changed), default=None)
    for state in states:
        changed.setdefault(state, unit)
    return first


def measured(graph: Graph, x: list[Any], repeats: int = 3) -> list[float]:
    """Return each call's time for forward and backward on one batch, in seconds, medians.

    Args:
        graph: An opened graph.
        x: The model's flat inputs for a few rows.
        repeats: Timed runs for each call, after one that is not timed.
    """
    values: dict[int, Any] = dict(zip(graph.inputs, x, strict=True))
    times = []
    for call in graph.calls:
        arguments = {key: values[number] for key, number in call.reads}
        run = _with_gradients(call)
        outputs = run(arguments)
        samples = []
        for _ in range(repeats):
            start = time.perf_counter()
            for value in run(arguments):
                value.numpy()
            samples.append(time.perf_counter() - start)
        times.append(median(samples))
        values.update(zip(call.writes, outputs, strict=True))
    return times


def _with_gradients(call: Call) -> Callable[[dict[int, Any]], list[Any]]:
    layer = call.operation if isinstance(call.operation, keras.layers.Layer) else None
    weights = [] if layer is None else [v.value for v in trained([layer])]

    def run(arguments: dict[int, Any]) -> list[Any]:
        floats = [value for value in arguments.values() if value.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(floats)
            outputs = call_operation(call.operation, call.arguments, arguments, True)
        gradients = tape.gradient([o for o in outputs if o.dtype.is_floating], [*floats, *weights])
        # The gradients' sum is kept, so that TensorFlow computes them.
        known = [tf.reduce_sum(tf.cast(tf.convert_to_tensor(g), tf.float32)) for g in gradients if g is not None]
        if known:
            with tf.control_dependencies(known):
                outputs = [tf.identity(output) for output in outputs]
        return outputs

    function: Callable[[dict[int, Any]], list[Any]] = traced(run)
    return function


def _flops(call: Call, graph: Graph) -> float:
    outputs = [graph.specs[number] for number in call.writes]
    numbers = sum(_count(tensor.shape[1:]) for tensor in outputs)
    layer = call.operation
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.layers.Embedding):
        return float(numbers)
    weights = sum(_count(v.shape) for v in trained([layer]) if len(v.shape) > 1)
    inputs = [tensor for tensor in call.arguments.keras_tensors]
    if isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional):
        places = _count(inputs[0].shape[1:2])
    else:
        places = _count(outputs[0].shape[1:-1])
    return 2.0 * weights * places + numbers + _attention(layer, inputs)


def _attention(layer: Any, inputs: list[Any]) -> float:
    """Return the operations of scores and their weighted sum, which no weight shows."""
    heads = _heads(layer)
    if heads is None:
        return 0.0
    queries, keys = _count(inputs[0].shape[1:-1]), _count(inputs[min(1, len(inputs) - 1)].shape[1:-1])
    return 4.0 * heads[0] * heads[1] * queries * keys


def _heads(layer: Any) -> tuple[int, int] | None:
    if isinstance(layer, keras.layers.MultiHeadAttention):
        return layer.num_heads, layer.key_dim
    if isinstance(layer, keras.layers.GroupQueryAttention):
        return layer.num_query_heads, layer.head_dim
    return None


def _inner_bytes(call: Call, graph: Graph) -> int:
    """Return what a call keeps for the backward pass beside its output: attention scores and projections."""
    heads = _heads(call.operation)
    if heads is None:
        return 0
    inputs = call.arguments.keras_tensors
    queries, keys = _count(inputs[0].shape[1:-1]), _count(inputs[min(1, len(inputs) - 1)].shape[1:-1])
    size = int(tf.as_dtype(graph.specs[call.writes[0]].dtype).size)
    return size * heads[0] * (2 * queries * keys + heads[1] * (2 * queries + 2 * keys))


def _count(dims: Any) -> int:
    sizes: list[int] = [1 if dim is None else int(dim) for dim in dims]
    return math.prod(sizes)


def _bytes(tensor: Any) -> int:
    return _bytes_of(tensor.shape[1:], tensor.dtype)


def _bytes_of(dims: Any, dtype: str) -> int:
    return _count(dims) * max(int(tf.as_dtype(dtype).size), 1)
