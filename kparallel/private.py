"""Every private name of TensorFlow and Keras that kparallel uses; `tests/unit/test_private.py` names a moved one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from keras.src.saving.serialization_lib import SafeModeScope
from tensorflow.python.distribute import distribute_lib

__all__: list[str] = []


@contextmanager
def local_updates(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Let the optimizer update each replica's own copy, without TensorFlow's `merge_call`.

    TensorFlow takes this path itself under XLA on GPUs. It makes control flow around an update legal
    (gradient accumulation, averages, loss scaling), which a `merge_call` forbids.
    """
    extended = strategy.extended
    extended._use_merge_call = lambda: False
    try:
        yield
    finally:
        del extended._use_merge_call


@contextmanager
def one_replica_view() -> Iterator[None]:
    """Let Keras's losses see one replica, so that they do not divide by the number of replicas."""
    distribute_lib._push_per_thread_mode(distribute_lib._get_default_replica_mode())
    try:
        yield
    finally:
        distribute_lib._pop_per_thread_mode()


def _already_summed(pairs: Any) -> Any:
    return pairs


def expect_summed_gradients(optimizer: Any) -> None:
    """Tell an optimizer, and the one inside it, that gradients come summed over the replicas."""
    for each in (optimizer, getattr(optimizer, "inner_optimizer", None)):
        if each is not None:
            each._all_reduce_sum_gradients = _already_summed


def weight_decay_exclusions(source: Any, target: Any) -> None:
    """Carry `exclude_from_weight_decay(var_names=...)`, which no optimizer's config holds."""
    if hasattr(source, "_exclude_from_weight_decay_pattern"):
        target._exclude_from_weight_decay_pattern = source._exclude_from_weight_decay_pattern
        target._exclude_from_weight_decay = set()
        target._exclude_from_weight_decay_cache = {}


def compile_arguments(model: keras.Model) -> dict[str, Any] | None:
    """Return the objects a model was compiled with."""
    config = getattr(model, "_compile_config", None)
    return dict(config.config) if model.compiled and config is not None else None


def flatten_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the model and every layer below it, parents first."""
    layers: list[keras.layers.Layer] = model._flatten_layers()
    return layers


def child_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return the layers directly below a layer, in the order in which it was given them."""
    layers: list[keras.layers.Layer] = list(layer._layers)
    return layers


def rename(source: Any, target: Any) -> None:
    """Give a layer or a variable the name, and a variable the path, of another."""
    if isinstance(source, keras.Variable):
        target._path, target._name = source.path, source.name
    else:
        object.__setattr__(target, "name", source.name)


def seed_generators(layer: keras.layers.Layer) -> list[keras.random.SeedGenerator]:
    """Return the seed generators that a layer holds itself."""
    return list(layer._seed_generators)


def read_variable(variable: Any) -> Any:
    """Return the NumPy value of a variable's first copy, whichever strategy holds it and whichever scope is entered."""
    value = variable._value if isinstance(variable, keras.Variable) else variable
    return (value.values[0] if isinstance(value, tf.distribute.DistributedValues) else value).numpy()


class _Number(keras.Variable):  # type: ignore[misc]
    """A scalar with several copies, which Python's `float` and `int` read as they read one with a single copy."""

    def __float__(self) -> float:
        return float(read_variable(self))

    def __int__(self) -> int:
        return int(read_variable(self))


def read_as_number(variable: keras.Variable) -> None:
    """Let `float(variable)` and `int(variable)` work: TensorFlow's variables with several copies refuse them."""
    if not variable.shape.rank and type(variable) is keras.Variable:
        variable.__class__ = _Number


# What Keras itself keeps on a model in public attributes.
KERAS_ATTRIBUTES = frozenset(
    [
        "activity_regularizer",
        "autocast",
        "build",
        "built",
        "call_signature_parameters",
        "compiled",
        "history",
        "input_spec",
        "inputs",
        "loss",
        "name",
        "optimizer",
        "output_names",
        "outputs",
        "predict_function",
        "quantize",
        "steps_per_execution",
        "stop_evaluating",
        "stop_predicting",
        "stop_training",
        "supports_jit",
        "supports_masking",
        "test_function",
        "train_function",
        "unrolled_steps_per_execution",
    ]
)


def unpickler(plain: type[keras.Model]) -> Callable[..., keras.Model]:
    """Return the function that reads a pickled model of a class."""
    read: Callable[..., keras.Model] = plain._unpickle_model
    return read


def own_losses(model: keras.Model) -> list[tf.Tensor]:
    """Return what `add_loss` collected in the present call."""
    return [loss for layer in model._flatten_layers() for loss in layer._get_own_losses()]


def regularization_losses(model: keras.Model) -> list[tf.Tensor]:
    """Return the penalties on weights."""
    losses: list[tf.Tensor] = model._get_regularization_losses()
    return losses


def compiled_loss(model: keras.Model) -> Any:
    """Return Keras's container of the compiled losses, or None."""
    return model._compile_loss


def compiled_metrics(model: keras.Model) -> Any:
    """Return Keras's container of the compiled metrics, or None."""
    return model._compile_metrics


def loss_tracker(model: keras.Model) -> keras.metrics.Mean:
    """Return the metric that reports `loss`."""
    return model._loss_tracker


def route_losses(compile_loss: Any, y: Any, y_pred: Any, sample_weight: Any) -> list[tuple[Any, float | None, Any]]:
    """Let Keras match targets, outputs and weights to losses.

    Returns:
        One (loss, loss weight, (y_true, y_pred, sample_weight)) per term that counts.
    """
    calls: list[Any] = []
    entries = compile_loss._flat_losses

    def recorder(y_true: Any, y_pred: Any, weight: Any) -> tf.Tensor:
        calls.append((y_true, y_pred, weight))
        return tf.zeros((), keras.config.floatx())

    compile_loss._flat_losses = [entry._replace(loss=recorder) for entry in entries]
    try:
        with keras.StatelessScope():
            compile_loss(y, y_pred, sample_weight)
    finally:
        compile_loss._flat_losses = entries
    terms = [(entry.loss, entry.loss_weights, call) for entry, call in zip(entries, calls, strict=False)]
    # With one output and one target Keras counts the first loss only.
    return terms if keras.tree.is_nested(y) or keras.tree.is_nested(y_pred) else terms[:1]


def keras_mask(tensor: Any) -> Any:
    """Return the mask that a layer left on a tensor, or None."""
    return getattr(tensor, "_keras_mask", None)


def metric_function(metric: keras.metrics.Metric) -> Callable[..., Any] | None:
    """Return the function that a `MeanMetricWrapper` averages, or None."""
    return getattr(metric, "_fn", None)


def built_by_keras(strategy_owner: keras.Model) -> tf.distribute.Strategy | None:
    """Return the strategy that a model was built under, or None."""
    return strategy_owner._distribute_strategy


def trust_own_code() -> Any:
    """Allow Python lambdas in configs: the code rebuilt is the caller's own, in this process."""
    return SafeModeScope(False)


def seed_states(model: keras.Model) -> set[int]:
    """Return the ids of the variables that hold seed generators' states."""
    return {id(g.state) for layer in model._flatten_layers() for g in layer._seed_generators}


def build_symbolically(model: keras.Model, batch: Any) -> None:
    """Create what is still missing (weights, metrics, losses, optimizer slots) from one batch's shapes."""
    model._symbolic_build(data_batch=batch)


PRIVATE_NAMES: Sequence[tuple[str, str]] = (
    ("keras.Model", "_unpickle_model"),
    ("keras.Model", "_get_metrics_result_or_logs"),
    ("keras.Model", "_flatten_layers"),
    ("keras.Model", "_get_own_losses"),
    ("keras.Model", "_get_regularization_losses"),
    ("keras.Model", "_symbolic_build"),
    ("keras.Model", "_maybe_symbolic_build"),
    ("keras.Model", "_get_own_metrics"),
    ("keras.optimizers.Optimizer", "_all_reduce_sum_gradients"),
)


def loss_weights(model: keras.Model) -> list[float | None]:
    """Return the weight of each compiled loss, in Keras's order."""
    losses = model._compile_loss
    return [entry.loss_weights for entry in losses._flat_losses] if losses is not None and losses.built else []
