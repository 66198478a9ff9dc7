"""Functions and graphs of TensorFlow."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import context

__all__: list[str] = []


def run_independently(operation: tf.Operation) -> None:
    """Let a stateful operation of a function's graph run as soon as its inputs are there.

    TensorFlow otherwise runs all that have no resource one after another, in the order of tracing.
    """
    manager = operation.graph.experimental_acd_manager
    if manager is not None:
        manager.run_independently(operation)


def traced(function: Callable[..., Any], **options: Any) -> Any:
    """Return a function as a `tf.function`, one trace for each set of shapes, without a warning of many traces.

    A step is traced once for each number of rows, and its parts once for each replica, on purpose.

    Args:
        function: Python that autograph leaves as it is.
        **options: As `tf.function` takes them.
    """
    made = tf.function(function, autograph=False, **options)
    made._omit_frequent_tracing_warning = True
    return made


@contextmanager
def without_devices() -> Iterator[None]:
    """Leave all device scopes of the present graph.

    In a strategy's graph TensorFlow traces a `tf.function` anew on each device, and writes the device into it. In this
    context it traces it once, for any device.
    """
    if tf.executing_eagerly():
        yield
        return
    graph = tf.compat.v1.get_default_graph()
    stack = graph._device_function_stack
    graph._device_function_stack = type(stack)()
    try:
        yield
    finally:
        graph._device_function_stack = stack


@contextmanager
def outermost() -> Iterator[None]:
    """Leave all graphs, as `tf.init_scope` does, but let tapes record."""
    with tf.init_scope():
        # `init_scope` also pauses all tapes of the thread, which would then miss what is computed inside.
        stopped = pywrap_tfe.TFE_Py_TapeSetIsStopped()
        if stopped:
            pywrap_tfe.TFE_Py_TapeSetRestartOnThread()
        try:
            yield
        finally:
            if stopped:
                pywrap_tfe.TFE_Py_TapeSetStopOnThread()


def of_any_rows(tensor: tf.Tensor) -> tf.Tensor:
    """Return a tensor of which the code that uses it does not know the first dim."""
    return tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=[None, *tensor.shape[1:]])


def tell_rows(tensor: tf.Tensor) -> None:
    """Tell TensorFlow's graph optimizers the dims of what `of_any_rows` returned, once the code that uses it is traced.

    Then what follows from the number of rows is a constant in each step.
    """
    shape = tensor.op.inputs[0].shape
    tensor.op._set_attr("shape", tf.compat.v1.AttrValue(shape=shape.as_proto()))


def draw_apart(graph: Any, number: int) -> None:
    """Let the random operations that a graph gets from now on draw other numbers than those of another worker's.

    TensorFlow seeds them by the global seed and by their place in the graph, which is the same on all workers.
    """
    if graph.seed is not None:
        # The odd multiplier keeps the seeds of all numbers apart, and number 0 keeps the seed as it is.
        graph.seed = (graph.seed + number * 0x9E3779B9) % 2**31


_CALLED = {"PartitionedCall": ("f",), "If": ("then_branch", "else_branch"), "While": ("body", "cond")}


def called_graphs(operation: tf.Operation) -> dict[str, Any]:
    """Return the graphs of the functions that an operation calls, by the attribute that names the function.

    Args:
        operation: Of the types PartitionedCall (attribute `f`), If (`then_branch`, `else_branch`) or While (`body`,
            `cond`), stateful or not; any other calls nothing that is known here. A function of TensorFlow 1, as the
            CTC loss has one, gives no graph; it captures no variable.
    """
    names = _CALLED.get(operation.type.removeprefix("Stateless").removeprefix("Stateful"), ())
    functions = {name: operation.graph._get_function(operation.get_attr(name).name) for name in names}
    return {name: function.graph for name, function in functions.items() if hasattr(function, "graph")}


def captured(tensor: tf.Tensor) -> Any:
    """Return what a function captured from outside that stands in its graph as a tensor, or None."""
    captures = getattr(tensor.graph, "captures", ())
    return next((outside for outside, inside in captures if inside is tensor), None)


def calls_unknown(operation: tf.Operation) -> bool:
    """Tell whether an operation calls functions that `called_graphs` does not know."""
    kinds = {attribute.type for attribute in operation.op_def.attr}
    return bool(kinds & {"func", "list(func)"}) and not called_graphs(operation)


@contextmanager
def unoptimized_calls() -> Iterator[None]:
    """Let TensorFlow leave out its graph optimizers in the functions that are called inside.

    It optimizes a function for each call that stands in a graph: what replicas share, once for each of them.
    """
    eager = context.context()
    before = eager.function_call_options
    config = tf.compat.v1.ConfigProto.FromString(before.config_proto_serialized)
    # The options travel with the call in the graph, and are read when the called function is prepared.
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    eager.function_call_options = context.FunctionCallOptions(before.executor_type, config)
    try:
        yield
    finally:
        eager.function_call_options = before
