"""The optimizers, metrics and variables that a step of the user's own may use: all that its model holds."""

import keras
import tensorflow as tf

from kparallel.compat.layers import flatten_layers, own_metrics, recurrent_states
from kparallel.compat.losses import metrics_inside
from kparallel.compat.optimizers import optimizers_in
from kparallel.compat.training import trainer_metrics
from kparallel.compat.variables import is_initialized

__all__: list[str] = []


def optimizers_of(model: keras.Model) -> list[keras.optimizers.Optimizer]:
    """Return the optimizers that a model and the models inside it hold, as attributes or by `compile`."""
    return optimizers_in([list(vars(layer).values()) for layer in flatten_layers(model)])


def metrics_of(model: keras.Model) -> list[keras.metrics.Metric]:
    """Return the metrics that a model and the layers inside it hold, and those inside other metrics."""
    # By identity, here and below: `==` between Keras variables compares their values, and two metrics may be alike.
    found: dict[int, keras.metrics.Metric] = {}

    def visit(metric: keras.metrics.Metric) -> None:
        if id(metric) not in found:
            found[id(metric)] = metric
            for inner in metrics_inside(metric):
                # Metrics may hold one another, so what was found is not entered again.
                visit(inner)

    # Not `model.metrics`, which a class may override with what its `compile` has yet to make.
    layers = flatten_layers(model)
    compiled = [metric for layer in layers if isinstance(layer, keras.Model) for metric in trainer_metrics(layer)]
    for metric in [*compiled, *own_metrics(layers)]:
        visit(metric)
    return list(found.values())


def variables_of(model: keras.Model) -> list[keras.Variable]:
    """Return each variable that a step of a model may write, once."""
    layers = flatten_layers(model)
    everything = [*model.variables, *recurrent_states(layers)]
    everything += [variable for metric in metrics_of(model) for variable in metric.variables]
    everything += [variable for optimizer in optimizers_of(model) for variable in optimizer.variables]
    return list({id(variable): variable for variable in everything if is_initialized(variable)}.values())


def bytes_of(variable: keras.Variable) -> int:
    """Return the bytes of one copy of a variable."""
    return int(tf.TensorShape(variable.shape).num_elements() * tf.as_dtype(variable.dtype).size)
