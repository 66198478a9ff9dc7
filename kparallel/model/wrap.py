"""`wrap` and `plan`: what a user calls."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from kparallel.devices import check_devices, local_devices
from kparallel.errors import BackendError, ModelError, PlanError
from kparallel.mesh import Mesh, grid
from kparallel.model.layout import lay_out
from kparallel.model.parallel_model import ParallelModel, parallel_class, recompile
from kparallel.model.runtime import Runtime
from kparallel.planning.plan import LayerGroup, Plan
from kparallel.private import flatten_layers, set_strategy
from kparallel.stage.rebuild import build_with, rebuild

__all__: list[str] = []

_HOOKS = ("train_step", "test_step", "predict_step", "make_train_function", "make_test_function")


def plan(model: Any, *, replicas: int | None = None, devices: Sequence[str] | None = None) -> Plan:
    """Decide how a model is spread over the local devices, without building anything.

    Args:
        model: A Keras model, or a zero-argument function that returns one.
        replicas: How many replicas; default one for each device.
        devices: Device names; default every local GPU, else every local CPU device.

    Returns:
        The plan; print it, or pass it to `wrap`.

    Raises:
        DeviceError: A device is unknown, repeated or of mixed type.
        PlanError: `replicas` is below 1 or above the number of devices.
        ModelError: The model cannot be wrapped.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)], name="line")
        >>> print(plan(model, devices=["CPU:0"]))
        plan for 'line': 1 replica x 1 stage
                    stage 0
        replica 0   CPU:0
        stage 0: 1 layer, 4 parameters, 16 B of weights on each of CPU:0
    """
    if not isinstance(model, keras.layers.Layer) and callable(model):
        model = build_with(model)
    _check(model)
    return _describe(model, _mesh(replicas, devices))


def wrap(
    model: Any,
    plan: Plan | None = None,
    *,
    replicas: int | None = None,
    devices: Sequence[str] | None = None,
    loss_reduction: str = "mean",
) -> ParallelModel:
    """Make a Keras model train data-parallel: each device takes a share of every batch.

    The batch size stays the global one, and training computes what plain Keras computes on one device.
    The model passed in is left as it is.

    Args:
        model: A Keras model (Functional, Sequential or subclassed with a config), or a zero-argument
            function that builds one.
        plan: A plan made by `kparallel.plan`; then neither `replicas` nor `devices` may be given.
        replicas: How many replicas; default one for each device.
        devices: Device names; default every local GPU, else every local CPU device.
        loss_reduction: What a loss means that returns one scalar for a batch: `"mean"` over rows (default),
            `"sum"` over rows, or `"global"`, which gathers the outputs of all replicas first.

    Returns:
        A `keras.Model`: compile and fit it as always.

    Raises:
        BackendError: Keras does not run on TensorFlow.
        DeviceError: A device is unknown, repeated or of mixed type.
        PlanError: The plan was made for another model, or asks for more replicas than devices.
        ModelError: The model cannot be wrapped; the message says why and what to do.

    Example:
        >>> import keras
        >>> plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> model = wrap(plain, devices=["CPU:0"])
        >>> model.compile(optimizer="adam", loss="mse")
    """
    if keras.backend.backend() != "tensorflow":
        raise BackendError(
            f"Expected Keras on TensorFlow, received the backend {keras.backend.backend()!r}. "
            "Set KERAS_BACKEND=tensorflow before Keras is imported."
        )
    if loss_reduction not in ("mean", "sum", "global"):
        raise PlanError(f"Expected loss_reduction 'mean', 'sum' or 'global', received {loss_reduction!r}.")
    if plan is not None and (replicas is not None or devices is not None):
        raise PlanError("Expected either a plan or replicas and devices, received both.")
    builder: Callable[[], Any] | None = None
    if not isinstance(model, keras.layers.Layer) and callable(model):
        builder = model
    else:
        _check(model)
    mesh = plan.mesh if plan is not None else _mesh(replicas, devices)
    check_devices([name for row in mesh.rows for name in row])
    if builder is None:
        decided = _describe(model, mesh)
        if plan is not None and plan != decided:
            raise PlanError(
                f"Expected a plan made for model {model.name!r}, received one for {plan.model_name!r} "
                "with other layers or weights. Call kparallel.plan(model) for this model."
            )
    strategy, layout = lay_out(mesh, None)
    # On the host first, so that no accelerator ever holds more than its own stage.
    with tf.device("CPU:0"):
        fresh = build_with(builder) if builder is not None else rebuild(model, type(model))
    if builder is not None:
        _check(fresh)
    runtime = Runtime(_describe(fresh, mesh), strategy, layout, loss_reduction, builder)
    set_strategy(fresh, strategy)
    if fresh.built:
        runtime.place(fresh)
    source = model if builder is None else fresh
    plain = type(fresh)
    object.__setattr__(fresh, "_kparallel", runtime)
    object.__setattr__(fresh, "__class__", parallel_class(plain))
    recompile(source, fresh)
    wrapped: ParallelModel = fresh
    return wrapped


def _mesh(replicas: int | None, devices: Sequence[str] | None) -> Mesh:
    names = local_devices() if devices is None else check_devices(devices)
    count = len(names) if replicas is None else replicas
    if not 1 <= count <= len(names):
        raise PlanError(
            f"Expected 1 to {len(names)} replicas for the devices {list(names)}, received {count}. "
            "kparallel.virtual_devices(n), called first, makes n virtual CPU devices."
        )
    Mesh(tuple((name,) for name in names))
    return grid(names, count)


def _describe(model: keras.Model, mesh: Mesh) -> Plan:
    layers = tuple(layer.name for layer in model.layers if not isinstance(layer, keras.layers.InputLayer))
    weights = model.weights if model.built else []
    parameters = sum(int(tf.TensorShape(w.shape).num_elements()) for w in weights)
    size = sum(int(tf.TensorShape(w.shape).num_elements()) * tf.as_dtype(w.dtype).size for w in weights)
    return Plan(model.name, mesh, (LayerGroup(layers, parameters, size),))


def _check(model: Any) -> None:
    if isinstance(model, ParallelModel):
        raise ModelError("Expected a plain model, received one that is wrapped already. Use it as it is, or unwrap it.")
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__name__}"
        hint = " Legacy tf_keras models are not supported: build it with Keras 3." if "tf_keras" in kind else ""
        raise ModelError(f"Expected a keras.Model or a function that builds one, received {kind}.{hint}")
    for hook in _HOOKS:
        if getattr(type(model), hook) is not getattr(keras.Model, hook):
            raise ModelError(
                f"{type(model).__name__} overrides {hook}, which kparallel replaces. Move the loss into "
                "compute_loss or add_loss and the metrics into compute_metrics, which are supported."
            )
    for layer in flatten_layers(model):
        if getattr(layer, "stateful", False):
            raise ModelError(
                f"Layer {layer.name!r} is stateful=True, so its state belongs to one batch's rows. Set it False."
            )
