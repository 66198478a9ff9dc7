"""The costs of a model's calls: arithmetic, weights, bytes kept and sent. The planner cuts the model by these figures.

Arithmetic is estimated from shapes: two operations for each weight at each position where it is used (a token, a
pixel), and one operation for each number that an elementwise call returns. `measured` runs the calls instead.
"""

import math
import time
from collections.abc import Callable, Sequence
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

    A dim of unknown size counts as 1. The weights of a layer that is called twice are counted at its first call.
    """
    # By the number of a value: the index of the call that writes it.
    writer = {number: index for index, call in enumerate(graph.calls) for number in call.writes}
    counted: set[int] = set()  # Ids of the variables of earlier calls.
    first_change: dict[int, int] = {}  # By the id of a state variable: the first unit that changes it.
    units: list[Unit] = []
    for call in graph.calls:
        layer = call.operation if isinstance(call.operation, keras.layers.Layer) else None
        variables = [] if layer is None else [v for v in layer.variables if id(v) not in counted]
        counted.update(id(v) for v in variables)
        trains = set() if layer is None else {id(v) for v in trained([layer])}
        # For one row: `_bytes` leaves out dim 0.
        output = sum(_bytes(graph.specs[number]) for number in call.writes)
        units.append(
            Unit(
                name=call.name,
                flops_per_row=_flops(call, graph),
                parameters=sum(_count(v.shape) for v in variables),
                weight_bytes=sum(_bytes_of(v.shape, v.dtype) for v in variables),
                frozen_bytes=sum(_bytes_of(v.shape, v.dtype) for v in variables if id(v) not in trains),
                largest_bytes=max((_bytes_of(v.shape, v.dtype) for v in variables if id(v) in trains), default=0),
                activation_bytes_per_row=output + _inner_bytes(call, graph),
                output_bytes_per_row=output,
                reads=tuple(dict.fromkeys(writer[number] for _, number in call.reads if number in writer)),
                layers=() if layer is None else (call.name,),
                loop_steps=_loop_steps(call),
                stays_with=None if layer is None else _first_to_change(layer, len(units), first_change),
            )
        )
    return tuple(units)


def _first_to_change(layer: keras.layers.Layer, unit: int, first_change: dict[int, int]) -> int | None:
    """Return the first unit that changes a state of this layer, and enter this unit for its other states.

    Calls that change the same state have to be in one stage.
    """
    states = seed_states(layer) | averaged_states(flatten_layers(layer))
    first = min((first_change[state] for state in states if state in first_change), default=None)
    for state in states:
        first_change.setdefault(state, unit)
    return first


def measured(graph: Graph, x: list[Any], repeats: int = 3, devices: Sequence[str] = ("",)) -> list[float]:
    """Return the median time of each call, forward and backward on one batch, in seconds.

    What it takes to call a function that computes nothing is taken off: in a step the calls are one function.

    Args:
        graph: An opened graph.
        x: The model's flat inputs for a few rows.
        repeats: The number of timed runs of each call, after one run that is not timed.
        devices: Where each call runs, at the same time: virtual CPU devices share cores and the way to the memory.
            Default one device, of TensorFlow's choice.
    """
    values: dict[int, Any] = dict(zip(graph.inputs, x, strict=True))
    times = []
    nothing = traced(lambda value: [tf.identity(value)])
    idle = median_time(nothing, tf.zeros([]), 10 * repeats)
    for call in graph.calls:
        arguments = {key: values[number] for key, number in call.reads}
        # Each call by itself, on the outputs of the calls before it.
        run = _with_gradients(call, devices)
        outputs = run(arguments)[: len(call.writes)]  # The inputs of later calls; what follows is to be waited for.
        times.append(max(0.0, median_time(run, arguments, repeats) - idle))
        values.update(zip(call.writes, outputs, strict=True))
    return times


def median_time(run: Callable[[Any], list[Any]], arguments: Any, repeats: int) -> float:
    """Return the median time of some runs, after one that is not timed: it may trace."""
    samples = []
    for turn in range(repeats + 1):
        start = time.perf_counter()
        for value in run(arguments):
            value.numpy()  # Waits for the result: a call returns before its operations have run.
        if turn:
            samples.append(time.perf_counter() - start)
    return median(samples)


def _with_gradients(call: Call, devices: Sequence[str]) -> Callable[[dict[int, Any]], list[Any]]:
    layer = call.operation if isinstance(call.operation, keras.layers.Layer) else None
    weights = [] if layer is None else [v.value for v in trained([layer])]

    def on_one(arguments: dict[int, Any]) -> tuple[list[Any], list[Any]]:
        floats = [value for value in arguments.values() if value.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(floats)
            outputs = call_operation(call.operation, call.arguments, arguments, True)
        gradients = tape.gradient([o for o in outputs if o.dtype.is_floating], [*floats, *weights])
        # Sums are returned: what only a control dependency reads TensorFlow turns into nothing, with all before it.
        return outputs, [tf.reduce_sum(tf.convert_to_tensor(g)) for g in gradients if g is not None]

    def on_all(arguments: dict[int, Any]) -> list[Any]:
        first: list[Any] = []
        sums: list[Any] = []
        for name in devices:
            with tf.device(name or None):
                outputs, computed = on_one(arguments)
                sums += computed
                if first:
                    sums += [tf.reduce_sum(output) for output in outputs if output.dtype.is_floating]
                first = first or outputs
        return [*first, *sums]

    function: Callable[[dict[int, Any]], list[Any]] = traced(on_all)
    return function


def _flops(call: Call, graph: Graph) -> float:
    """Return the floating-point operations of a call's forward pass for one row."""
    outputs = [graph.specs[number] for number in call.writes]
    numbers = sum(_count(tensor.shape[1:]) for tensor in outputs)  # Dim 0 is the rows.
    layer = call.operation
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.layers.Embedding):
        return float(numbers)
    # Matrices and kernels multiply; a vector (bias, scale) costs one operation a number, which `numbers` contains.
    weights = sum(_count(v.shape) for v in trained([layer]) if len(v.shape) > 1)
    inputs = [tensor for tensor in call.arguments.keras_tensors]
    # A recurrent layer uses its weights at each time step, even if it returns the last output only.
    if isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional):
        positions = _count(inputs[0].shape[1:2])
    else:
        positions = _count(outputs[0].shape[1:-1])
    return 2.0 * weights * positions + numbers + _attention(layer, inputs)


def _loop_steps(call: Call) -> int:
    """Return the number of time steps that a call of a recurrent layer runs one after another, in both directions."""
    layer = call.operation
    if not isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional):
        return 0
    steps = _count(call.arguments.keras_tensors[0].shape[1:2])
    return 2 * steps if isinstance(layer, keras.layers.Bidirectional) else steps


def _attention(layer: Any, inputs: list[Any]) -> float:
    """Return the operations of attention scores and of the weighted sum of values, which involve no weights."""
    heads = _heads(layer)
    if heads is None:
        return 0.0
    # Query and value are the first two inputs; with one input the layer attends to itself.
    queries, keys = _count(inputs[0].shape[1:-1]), _count(inputs[min(1, len(inputs) - 1)].shape[1:-1])
    return 4.0 * heads[0] * heads[1] * queries * keys


def _heads(layer: Any) -> tuple[int, int] | None:
    """Return the number of attention heads and their size, None for a layer without attention."""
    if isinstance(layer, keras.layers.MultiHeadAttention):
        return layer.num_heads, layer.key_dim
    if isinstance(layer, keras.layers.GroupQueryAttention):
        return layer.num_query_heads, layer.head_dim
    return None


def _inner_bytes(call: Call, graph: Graph) -> int:
    """Return the bytes for each row that a call keeps for the backward pass beside its output, for attention only."""
    heads = _heads(call.operation)
    if heads is None:
        return 0
    inputs = call.arguments.keras_tensors
    queries, keys = _count(inputs[0].shape[1:-1]), _count(inputs[min(1, len(inputs) - 1)].shape[1:-1])
    # Scores before and after the softmax, [head, query, key]; projections of queries and their results, keys and
    # values.
    size = int(tf.as_dtype(graph.specs[call.writes[0]].dtype).size)
    return size * heads[0] * (2 * queries * keys + heads[1] * (2 * queries + 2 * keys))


def _count(dims: Any) -> int:
    sizes: list[int] = [1 if dim is None else int(dim) for dim in dims]
    return math.prod(sizes)


def _bytes(tensor: Any) -> int:
    return _bytes_of(tensor.shape[1:], tensor.dtype)


def _bytes_of(dims: Any, dtype: str) -> int:
    return _count(dims) * max(int(tf.as_dtype(dtype).size), 1)
