"""Every private name of TensorFlow and Keras that kparallel uses; `tests/unit/test_private.py` names a moved one."""

import copy
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend import compute_output_spec
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import set_keras_mask
from keras.src.layers.layer import CallContext
from keras.src.models.functional import Functional, operation_fn
from keras.src.ops.symbolic_arguments import SymbolicArguments
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter, can_convert_arrays
from keras.src.trainers.data_adapters.array_slicing import (
    ScipySparseSliceable,
    convert_to_sliceable,
    train_validation_split,
)
from keras.src.trainers.data_adapters.data_adapter import DataAdapter as DataAdapter
from keras.src.trainers.data_adapters.data_adapter_utils import scipy_sparse_to_tf_sparse
from keras.src.trainers.data_adapters.tf_dataset_adapter import make_class_weight_map_fn
from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
from tensorflow.python.distribute import cross_device_ops, distribute_lib
from tensorflow.python.distribute.values import MirroredVariable, OnWritePolicy
from tensorflow.python.eager import context
from tensorflow.python.framework import ops
from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

from kparallel.trace.events import Event

__all__: list[str] = []


@functools.cache
def mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """Return the `MirroredStrategy` of some devices, one in a process, so that models on the same devices share layers.

    TensorFlow numbers the groups of each strategy from the same key and the collectives of a group from another, and
    refuses two of one number that differ in devices or dtype, as a synchronized BatchNorm's would. So each strategy
    starts from a number of its own.

    Args:
        devices: One for each replica.
    """

    class Keyed(tf.distribute.MirroredStrategy):  # type: ignore[misc]
        _collective_key_base = ops.uid() * 16 % 2**30  # A strategy makes a handful of groups.

    return Keyed(list(devices))


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


def own_optimizer(optimizer: Any) -> Any:
    """Return the optimizer that updates: the one inside another that scales the loss, else itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


@contextmanager
def updates_through(
    optimizer: Any, run: Callable[[Callable[..., None], list[tuple[Any, Any]], Any], None]
) -> Iterator[None]:
    """Let a function carry out an optimizer's update step.

    Args:
        optimizer: It, or the one inside it, calls `run` in place of its own loop over the variables.
        run: Takes Keras's own loop as a function of (gradient, variable) pairs and the learning rate, then all pairs
            and the learning rate.
    """
    own = own_optimizer(optimizer)
    loop = own._distributed_tf_update_step

    def replaced(distribution: Any, pairs: Any, rate: Any) -> None:
        run(lambda some, value: loop(distribution, some, value), list(pairs), rate)

    own._distributed_tf_update_step = replaced
    try:
        yield
    finally:
        del own._distributed_tf_update_step


@contextmanager
def one_replica_view() -> Iterator[None]:
    """Let Keras's losses see one replica, so that they do not divide by the number of replicas."""
    distribute_lib._push_per_thread_mode(distribute_lib._get_default_replica_mode())
    try:
        yield
    finally:
        distribute_lib._pop_per_thread_mode()


def optimizers_in(optimizer: Any) -> list[Any]:
    """Return an optimizer and all those that it holds, however nested; none for None."""
    found: dict[int, Any] = {}

    def visit(value: Any) -> None:
        if isinstance(value, dict | list | tuple):
            for part in value.values() if isinstance(value, dict) else value:
                visit(part)
        elif isinstance(value, keras.optimizers.Optimizer) and id(value) not in found:
            found[id(value)] = value
            visit(list(vars(value).values()))

    visit(optimizer)
    return list(found.values())


@contextmanager
def updating_copies(optimizers: Sequence[Any]) -> Iterator[None]:
    """Let optimizers update this replica's copies, with gradients as they are: the step has summed them.

    Enter it in a replica's context. Outside a step an optimizer is as the user made it.
    """
    strategies = [optimizer._distribution_strategy for optimizer in optimizers]
    for optimizer in optimizers:
        optimizer._all_reduce_sum_gradients = lambda pairs: pairs
        optimizer._distribution_strategy = tf.distribute.get_strategy()
    try:
        yield
    finally:
        for optimizer, strategy in zip(optimizers, strategies, strict=True):
            del optimizer._all_reduce_sum_gradients
            optimizer._distribution_strategy = strategy


def slots_by_weight(optimizer: Any) -> dict[int, keras.Variable]:
    """Return, by the id of an optimizer's slot, the weight that it belongs to.

    Keras's convention: slots stand in lists that are indexed as the weights are. What is kept otherwise is left out;
    it then lies on another device than its weight, and is right all the same.
    """
    weights = list(optimizer._trainable_variables)
    own = {id(variable) for variable in optimizer._variables}
    found: dict[int, keras.Variable] = {}
    for value in vars(optimizer).values():
        if isinstance(value, list | tuple) and len(value) == len(weights):
            found |= {id(slot): weight for slot, weight in zip(value, weights, strict=True) if id(slot) in own}
    return found


def compile_arguments(model: keras.Model) -> dict[str, Any] | None:
    """Return the objects a model was compiled with."""
    config = getattr(model, "_compile_config", None)
    return dict(config.config) if model.compiled and config is not None else None


def record_jit(model: keras.Model, asked: Any) -> None:
    """Let a model's compile arguments, which go into its files, say what the user asked of XLA."""
    model._compile_config.config["jit_compile"] = asked


def flatten_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the model and every layer below it, parents first."""
    layers: list[keras.layers.Layer] = model._flatten_layers()
    return layers


def unpickler(plain: type[keras.Model]) -> Callable[..., keras.Model]:
    """Return the function that reads a pickled model of a class."""
    read: Callable[..., keras.Model] = plain._unpickle_model
    return read


def own_metrics(layers: Sequence[keras.layers.Layer]) -> list[keras.metrics.Metric]:
    """Return the metrics that layers and models hold themselves, as attributes."""
    return [metric for layer in layers for metric in layer._metrics]


def compiled_loss(model: keras.Model) -> Any:
    """Return Keras's container of the compiled losses, or None."""
    return model._compile_loss


def flat_losses(compile_loss: Any) -> list[Any]:
    """Return the losses inside Keras's built container."""
    return [entry.loss for entry in compile_loss._flat_losses] if compile_loss.built else []


def compiled_metrics(model: keras.Model) -> Any:
    """Return Keras's container of the compiled metrics, or None."""
    return model._compile_metrics


def loss_tracker(model: keras.Model) -> keras.metrics.Mean:
    """Return the metric that reports `loss`."""
    return model._loss_tracker


def route_losses(compile_loss: Any, y: Any, y_pred: Any, sample_weight: Any) -> list[tuple[Any, Any, Any]]:
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


def keras_logits(tensor: Any) -> Any:
    """Return the logits that a softmax or sigmoid left on its result, or None; Keras's losses rather read them."""
    return getattr(tensor, "_keras_logits", None)


def set_logits(tensor: Any, logits: Any) -> None:
    """Tell Keras's losses from which logits a tensor was made."""
    tensor._keras_logits = logits


def wrapped_function(owner: keras.metrics.Metric | keras.losses.Loss) -> Callable[..., Any] | None:
    """Return the function that a `MeanMetricWrapper` averages or a compiled loss calls, or None."""
    return getattr(owner, "_fn", getattr(owner, "fn", None))


def reduced_dims(owner: keras.metrics.Metric | keras.losses.Loss) -> tuple[int, ...]:
    """Return the dims given as the `axis` of what a metric or loss of Keras's calls; 0 is the rows."""
    axis = getattr(owner, "_fn_kwargs", {}).get("axis")
    return () if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)


def inner_functional(model: Any) -> Any:
    """Return the functional graph that a model's own `call` runs, or None where `call` is something else."""
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call:
        return model._functional
    return model if isinstance(model, Functional) and type(model).call is Functional.call else None


def functional_nodes(functional: Any) -> Iterator[Any]:
    """Yield a functional graph's nodes in the order in which Keras runs them, inputs left out."""
    for _, nodes in sorted(functional._nodes_by_depth.items(), reverse=True):
        yield from (node for node in nodes if node.operation is not None and not node.is_input)


def standardized_inputs(model: Any, x: Any) -> list[Any]:
    """Return a functional model's flat inputs, matched by name and given their rank and dtype, as Keras does."""
    return list(inner_functional(model)._standardize_inputs(x))


def call_operation(operation: Any, arguments: Any, values: dict[int, Any], training: bool) -> list[Any]:
    """Call one node's layer or operation and return its flat outputs."""
    args, kwargs = arguments.fill_in(values)
    return list(keras.tree.flatten(operation_fn(operation, training=training)(*args, **kwargs)))


@contextmanager
def one_model_call() -> Iterator[None]:
    """Let Keras see the layers called inside as parts of one model's call.

    Otherwise each would count as a call of its own, and a layer's second call would drop the losses of its first.
    """
    before = global_state.get_global_attribute("current_call_ctx")
    global_state.set_global_attribute("current_call_ctx", CallContext(entry_layer=None))
    try:
        yield
    finally:
        global_state.set_global_attribute("current_call_ctx", before)


def symbolic_arguments(*tensors: Any) -> Any:
    """Return Keras's record of a call with some symbolic tensors."""
    return SymbolicArguments(*tensors)


def set_mask(tensor: Any, mask: Any) -> None:
    """Attach a Keras mask to a tensor."""
    set_keras_mask(tensor, mask)


class CollectiveReducer:
    """TensorFlow's collectives over one group of devices, launched from replica context.

    Args:
        devices: This worker's devices of the group.
        strategy: The strategy whose collective keys number the launches.
        group_size: Devices of all workers together.
        options: TensorFlow's communication options.
    """

    def __init__(self, devices: Sequence[str], strategy: tf.distribute.Strategy, group_size: int, options: Any) -> None:
        keys = strategy.extended._collective_keys
        self._options = options
        self._reducer = cross_device_ops.CollectiveAllReduce(devices, group_size, options, keys)

    def sum(self, packs: list[list[tf.Tensor]], local_index: int) -> list[tf.Tensor]:
        """Sum each tensor over the group; a pack's tensors, of one dtype, travel as one."""
        return list(self._reducer._launchers[local_index].batch_all_reduce(packs, self._options))

    def sum_slices(self, value: tf.IndexedSlices, local_index: int) -> tf.IndexedSlices:
        """Return the slices of the whole group."""
        whole: tf.IndexedSlices = self._reducer._launchers[local_index].all_reduce_indexed_slices(value, self._options)
        return whole

    def gather_equal(self, value: tf.Tensor, local_index: int) -> tf.Tensor:
        """Concatenate all replicas' rows, in order, of which each has as many: one exchange."""
        return self._reducer._launchers[local_index]._all_gather(value, self._options)

    def gather(self, value: tf.Tensor, local_index: int) -> tf.Tensor:
        """Concatenate all replicas' rows, in order: two exchanges."""
        return self._reducer._launchers[local_index].all_gather(value, 0, self._options)


def _writing_all(name: str) -> Callable[..., Any]:
    """Return a method of `PlacedVariable` that writes to all copies where no strategy is entered."""
    inherited = getattr(MirroredVariable, name)

    @functools.wraps(inherited)
    def write(self: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        if tf.distribute.has_strategy():
            return inherited(self, value, *args, **kwargs)
        if not isinstance(value, tf.IndexedSlices):
            value = tf.convert_to_tensor(value, self.dtype)
        return [getattr(each, name)(value, *args, **kwargs) for each in self.values][0]

    return write


class PlacedVariable(MirroredVariable):  # type: ignore[misc]
    """A variable with one copy on each device of a column, which outside a step is an ordinary variable.

    In a step each replica reads and writes its own copy, and the step keeps them equal. Everywhere else all copies
    are written and the first is read, so that plain models, tapes and optimizers train it as they train any other.

    Args:
        strategy: The strategy in whose steps it is used.
        copies: One variable for each replica of this process, equal.
    """

    def __init__(self, strategy: tf.distribute.Strategy, copies: Sequence[tf.Variable]) -> None:
        aggregation = tf.VariableAggregation.NONE
        super().__init__(strategy, tuple(copies), aggregation, var_policy=OnWritePolicy(aggregation))
        for each in copies:
            _set_container(each, self)
        self.owners: weakref.WeakSet[Any] = weakref.WeakSet()  # What placed it here: the runtimes of wrapped models.

    assign = _writing_all("assign")
    assign_add = _writing_all("assign_add")
    assign_sub = _writing_all("assign_sub")
    scatter_add = _writing_all("scatter_add")
    scatter_sub = _writing_all("scatter_sub")
    scatter_mul = _writing_all("scatter_mul")
    scatter_div = _writing_all("scatter_div")
    scatter_min = _writing_all("scatter_min")
    scatter_max = _writing_all("scatter_max")
    scatter_update = _writing_all("scatter_update")

    def _get(self) -> Any:
        return super()._get() if tf.distribute.has_strategy() else self._primary

    def _get_on_device_or_primary(self) -> Any:
        return super()._get_on_device_or_primary() if tf.distribute.has_strategy() else self._primary

    @property
    def handle(self) -> Any:
        """The resource that holds the value."""
        return super().handle if tf.distribute.has_strategy() else self._primary.handle

    def read_value(self) -> Any:
        """Return the value as a tensor."""
        return super().read_value() if tf.distribute.has_strategy() else self._primary.read_value()

    def __array__(self, dtype: Any = None) -> Any:
        return self._primary.__array__(dtype)

    def __int__(self) -> int:
        return int(self._primary)

    def __float__(self) -> float:
        return float(self._primary)

    def __bool__(self) -> bool:
        return bool(self._primary)

    def __complex__(self) -> complex:
        return complex(self._primary)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._primary, memo)


def own_device(device: str, name: str) -> bool:
    """Tell whether a device is the one that a name means, which may leave out the worker."""
    full = tf.DeviceSpec.from_string(device)
    return bool(full.make_merged_spec(tf.DeviceSpec.from_string(name)) == full)


def place_variable(variable: keras.Variable, strategy: tf.distribute.Strategy, devices: Sequence[str]) -> Any:
    """Give a Keras variable one copy on each device of a column, with the same value.

    The variable that it had stays the copy on its device, so that functions traced before read the present value.

    Args:
        variable: It must be initialized.
        strategy: In whose steps it will be used.
        devices: The column.

    Returns:
        What it was, for `restore_variable`; None if it lies there already.
    """
    old = variable._value
    if is_placed(variable, strategy, devices):
        return None
    former = list(old.values) if isinstance(old, tf.distribute.DistributedValues) else [old]
    value = _from_chief(strategy, former[0])
    copies = []
    for device in devices:
        same = next((each for each in former if own_device(each.device, device)), None)
        if same is None:
            with tf.device(device), tf.init_scope():
                same = tf.Variable(value, dtype=old.dtype, trainable=old.trainable, name=variable.name)
        elif value is not former[0]:
            same.assign(value)
        copies.append(same)
    copies[0]._unique_id = former[0]._unique_id  # By which optimizers know a weight.
    variable._value = PlacedVariable(strategy, copies)
    return old


def _from_chief(strategy: tf.distribute.Strategy, value: tf.Variable) -> Any:
    """Return the chief's value of a variable in a cluster; on one machine the variable itself."""
    if not hasattr(strategy, "cluster_resolver") or strategy.cluster_resolver is None:
        return value
    creator = strategy.extended._get_variable_creator_initial_value
    device = strategy.extended.worker_devices[0]
    return creator(replica_id=0, device=device, primary_var=None, initial_value=value.read_value(), dtype=value.dtype)()


def restore_variable(variable: keras.Variable, old: Any) -> None:
    """Undo `place_variable`."""
    variable._value = old
    held = isinstance(old, tf.distribute.DistributedValues)
    for each in old.values if held else [old]:
        _set_container(each, old if held else None)


def gather_variable(variable: keras.Variable, device: str) -> None:
    """Give a placed Keras variable a single TensorFlow variable on a device, its copy there if it has one."""
    placed = variable._value
    single = next((each for each in placed.values if own_device(each.device, device)), None)
    if single is None:
        with tf.device(device), tf.init_scope():
            first = placed.values[0]
            single = tf.Variable(first, dtype=first.dtype, trainable=first.trainable, name=variable.name)
    single._unique_id = placed._unique_id
    _set_container(single, None)
    variable._value = single


def _set_container(single: tf.Variable, container: Any) -> None:
    """Say of which variable with copies a single variable is one; of none for None.

    TensorFlow notes it on the handle, or on the variable where that was made in a function, as slots are.
    """
    for place in (single, single.handle):
        if place is single.handle and container is not None:
            place._distributed_container = weakref.ref(container)
        elif "_distributed_container" in vars(place):
            del place._distributed_container


def placed_value(variable: keras.Variable) -> PlacedVariable | None:
    """Return the copies of a placed variable, or None."""
    return variable._value if isinstance(variable._value, PlacedVariable) else None


def is_initialized(variable: keras.Variable) -> bool:
    """Tell whether a Keras variable has its TensorFlow variable yet."""
    return variable._value is not None


def is_placed(variable: keras.Variable, strategy: tf.distribute.Strategy, devices: Sequence[str] | None) -> bool:
    """Tell whether a variable has its copies on the devices of a column, or on any column of the strategy for None."""
    placed = variable._value
    if not isinstance(placed, PlacedVariable) or placed.distribute_strategy is not strategy:
        return False
    return devices is None or (
        len(devices) == len(placed.values)
        and all(own_device(each.device, name) for each, name in zip(placed.values, devices, strict=True))
    )


def foreign_strategy(variable: keras.Variable) -> tf.distribute.Strategy | None:
    """Return the strategy of the user's own that holds a variable, or None."""
    value = variable._value
    held = isinstance(value, tf.distribute.DistributedValues) and not isinstance(value, PlacedVariable)
    return value.distribute_strategy if held else None


def trainer_metrics(model: keras.Model) -> list[keras.metrics.Metric]:
    """Return the metrics that a model's `compile` made and was given."""
    loss = model._compile_loss
    made = [getattr(model, "_loss_tracker", None), model._compile_metrics]
    return [metric for metric in [*made, *(loss.metrics if loss is not None else [])] if metric is not None]


def forget_functions(model: keras.Model) -> None:
    """Let a Keras model make its functions anew when they are next needed."""
    model.train_function = model.test_function = model.predict_function = None


def renew_functions(model: keras.Model) -> None:
    """Let a plain Keras model trace its functions anew when they are next called, also within a `fit` that runs."""
    for kind in ("train", "test", "predict"):
        if getattr(model, f"{kind}_function") is not None:
            setattr(model, f"{kind}_function", None)
            getattr(model, f"make_{kind}_function")()


def split_for_validation(arrays: Any, share: float) -> Any:
    """Split arrays into training and validation rows as Keras does."""
    return train_validation_split(arrays, share)


def are_arrays(*data: Any) -> bool:
    """Return whether Keras reads x, y and weights as arrays."""
    return data[0] is not None and bool(can_convert_arrays(data))


def rows_of_arrays(given: dict[str, Any]) -> tuple[Any, int, int]:
    """Return arrays as Keras's `fit` takes them: checked, in its float dtype, with class weights as weights of rows.

    Args:
        given: The arguments of `fit`.

    Returns:
        What Keras packs of x, y and weights, each leaf ready to be indexed by rows; the rows; the batch size.

    Raises:
        ValueError: Keras refuses the arrays, as for different numbers of rows.
    """
    names = ("x", "y", "sample_weight", "class_weight", "batch_size")
    adapter = ArrayDataAdapter(**{name: given[name] for name in names}, steps=given["steps_per_epoch"])
    return convert_to_sliceable(adapter._inputs), adapter._num_samples, adapter._batch_size


def chosen_rows(sliceable: Any, indices: Any) -> Any:
    """Return rows of a leaf of `rows_of_arrays`: a NumPy array, or a tensor where it is one."""
    if sliceable is None:
        return None
    if isinstance(sliceable, ScipySparseSliceable):
        return scipy_sparse_to_tf_sparse(sliceable[indices])
    rows = sliceable[indices]
    return rows if isinstance(rows, tf.Tensor | tf.RaggedTensor | tf.SparseTensor) else sliceable.convert_to_numpy(rows)


def seed_states(model: keras.Model) -> set[int]:
    """Return the ids of the variables that hold seed generators' states."""
    return {id(g.state) for layer in model._flatten_layers() for g in layer._seed_generators}


def class_weight_function(class_weight: dict[int, float]) -> Callable[..., Any]:
    """Return Keras's function that turns (x, y) into (x, y, weight of each row)."""
    function: Callable[..., Any] = make_class_weight_map_fn(class_weight)
    return function


def dataset_strategy(dataset: tf.distribute.DistributedDataset) -> tf.distribute.Strategy:
    """Return the strategy that distributed a dataset."""
    return dataset._strategy


def replica_spec(spec: Any) -> Any:
    """Return the spec of one replica's part of a dataset's element; None for a part that holds nothing."""
    parts = getattr(spec, "_value_specs", None)  # Of a PerReplica, which a distributed dataset yields.
    spec = spec if parts is None else parts[0]
    return spec if hasattr(spec, "shape") and hasattr(spec, "dtype") else None


def epoch_batches(epoch_iterator: Any) -> Any:
    """Return what Keras's epoch iterator reads."""
    return epoch_iterator._distributed_dataset


def build_symbolically(model: keras.Model, batch: Any) -> None:
    """Create what is still missing (weights, metrics, losses, optimizer slots) from one batch's shapes.

    Args:
        model: The compiled model.
        batch: Tensors or specs.
    """
    build_layers(model, batch)
    _build_optimizer(model)
    model._symbolic_build(data_batch=batch)


def _build_optimizer(model: keras.Model) -> None:
    """Make an optimizer's slots as plain Keras's first step does: while it is traced, unless steps run eagerly.

    What `build` assigns then stays in a trace that is never run, as `ScheduleFreeAdamW` assigns its momenta.
    """
    optimizer: Any = getattr(model, "optimizer", None)

    def build() -> None:  # TensorFlow traces a function that makes variables twice.
        if not optimizer.built:
            optimizer.build(model.trainable_variables)

    if optimizer is not None and not optimizer.built and not model.run_eagerly:
        traced(build).get_concrete_function()


def build_layers(model: keras.Model, batch: Any) -> None:
    """Create the weights that are still missing from the shapes of one batch's inputs.

    Args:
        model: Compiled or not.
        batch: Tensors or specs: inputs, or a tuple that starts with them.
    """
    if all(layer.built for layer in flatten_layers(model)):
        return
    inputs = keras.utils.unpack_x_y_sample_weight(batch)[0]

    def symbolic(leaf: Any) -> Any:
        return None if leaf is None else keras.KerasTensor(leaf.shape, leaf.dtype.name)

    compute_output_spec(model, keras.tree.map_structure(symbolic, inputs))


PRIVATE_NAMES: Sequence[tuple[str, str]] = (
    ("keras.Model", "_unpickle_model"),
    ("keras.Model", "_flatten_layers"),
    ("keras.Model", "_symbolic_build"),
    ("keras.Model", "_maybe_symbolic_build"),
    ("keras.optimizers.Optimizer", "_all_reduce_sum_gradients"),
    ("keras.optimizers.Optimizer", "_distributed_tf_update_step"),
)


def loss_weights(model: keras.Model) -> list[Any]:
    """Return the weight of each compiled loss, in Keras's order."""
    losses = model._compile_loss
    return [entry.loss_weights for entry in losses._flat_losses] if losses is not None and losses.built else []


def read_profile(path: Path) -> Iterator[Event]:
    """Yield the events of a profile that TensorFlow's profiler wrote, of the host and of GPUs.

    That of GPUs follows TensorFlow's documentation and has not run on GPUs yet.

    Args:
        path: A file that ends in `.xplane.pb`.
    """
    space = XSpace.FromString(path.read_bytes())
    origin = min((line.timestamp_ns for plane in space.planes for line in plane.lines), default=0)
    on_gpus = any(plane.name.startswith("/device:GPU:") for plane in space.planes)
    for plane in space.planes:
        names = {key: value.name for key, value in plane.event_metadata.items()}
        stats = {key: value.name for key, value in plane.stat_metadata.items()}
        for line in plane.lines:
            # Beside GPUs the host's threads only start operations; Python's own thread tells of steps and batches.
            if plane.name == "/host:CPU" and not (on_gpus and line.name.startswith("tf_")):
                thread = f"{line.name}/{line.id}"
            elif plane.name.startswith("/device:GPU:"):
                thread = f"{plane.name}/{line.name}"
            else:
                continue
            for event in line.events:
                start = ((line.timestamp_ns - origin) * 1000 + event.offset_ps) * 1e-12
                noted = {
                    stats.get(s.metadata_id, ""): s.str_value or stats.get(s.ref_value, "") or str(s.int64_value)
                    for s in event.stats
                }
                yield Event(thread, names[event.metadata_id], start, start + event.duration_ps * 1e-12, noted)


def tensorflow_has_started() -> bool:
    """Return whether TensorFlow's runtime runs already, so that it takes no cluster any more."""
    return context.context()._context_handle is not None


def expect_cluster(workers: int, timeout: float, heartbeat: float) -> None:
    """Tell TensorFlow, before it starts, how long to wait for the workers and for signs of their life.

    Args:
        workers: How many workers there are.
        timeout: Seconds until all must have joined.
        heartbeat: Seconds without a sign of life after which a worker is lost.
    """
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=int(timeout * 1000),
        heartbeat_timeout_in_ms=int(heartbeat * 1000),
        coordinated_jobs=[CoordinatedJob(name="worker", num_tasks=workers)],
    )


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


_CALLED = {"PartitionedCall": ("f",), "If": ("then_branch", "else_branch"), "While": ("body", "cond")}


def called_graphs(operation: tf.Operation) -> dict[str, Any]:
    """Return the graphs of the functions that an operation calls, by the attribute that names the function.

    Args:
        operation: Of the types PartitionedCall (attribute `f`), If (`then_branch`, `else_branch`) or While (`body`,
            `cond`), stateful or not; any other calls nothing that is known here.
    """
    return {
        name: operation.graph._get_function(operation.get_attr(name).name).graph
        for name in _CALLED.get(operation.type.removeprefix("Stateless").removeprefix("Stateful"), ())
    }


def float8_variables(layers: Sequence[keras.layers.Layer]) -> set[int]:
    """Return the ids of the variables of Keras's float8 layers that are overwritten with their gradient."""
    variables = [v for layer in layers if hasattr(layer, "_float8_call") for v in layer._trainable_variables]
    return {id(v) for v in variables if v.overwrite_with_gradient and v.name.endswith(("_scale", "_amax_history"))}


def recurrent_states(layers: Sequence[keras.layers.Layer]) -> list[keras.Variable]:
    """Return what stateful recurrent layers carry from batch to batch; no layer counts it among its variables."""
    known = [layer for layer in layers if isinstance(layer, keras.layers.RNN) and layer.stateful]
    found = [variable for layer in known for variable in keras.tree.flatten(layer.states)]
    return [variable for variable in found if variable is not None]


@contextmanager
def of_other_rows(
    variables: Sequence[tuple[keras.Variable, tf.Tensor]], layers: Sequence[keras.layers.Layer]
) -> Iterator[None]:
    """Let recurrent layers, and the variables of their states, take as many rows as some values have.

    Args:
        variables: With values of other rows.
        layers: The layers that may check the number of rows.
    """
    shapes = [variable._shape for variable, _ in variables]
    expected = {layer: layer._expected_batch_size for layer in layers if hasattr(layer, "_expected_batch_size")}
    for variable, value in variables:
        variable._shape = tuple(value.shape)
    for layer in expected:
        layer._expected_batch_size = None
    try:
        yield
    finally:
        for (variable, _), shape in zip(variables, shapes, strict=True):
            variable._shape = shape
        for layer, size in expected.items():
            layer._expected_batch_size = size


def captured(tensor: tf.Tensor) -> Any:
    """Return what a function captured from outside that stands in its graph as a tensor, or None."""
    captures = getattr(tensor.graph, "captures", ())
    return next((outside for outside, inside in captures if inside is tensor), None)


def is_copy(handle: Any) -> bool:
    """Tell whether a resource is one copy of a variable that has one on each replica."""
    container = getattr(handle, "_distributed_container", None)
    return container is not None and container() is not None


def assign_directly(variable: keras.Variable, value: Any) -> None:
    """Assign a Keras variable, past any scope that holds assignments back."""
    variable._direct_assign(value)


def resource_name(handle: Any) -> str:
    """Return the name of the variable that a resource belongs to."""
    return str(getattr(handle, "_unique_id", "?")).rpartition("_")[0] or "?"


class _OneReplica:
    """A strategy that says of itself that it has one replica.

    Args:
        strategy: Gives everything else.
    """

    num_replicas_in_sync = 1

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)


@contextmanager
def whole_losses() -> Iterator[None]:
    """Let no loss of Keras's that a layer or another loss calls divide by the number of replicas.

    What else a layer asks of its replica, it gets of it: only the number of replicas is 1.
    """
    mode = distribute_lib._get_per_thread_mode()
    if mode.replica_context is None or mode.strategy.num_replicas_in_sync == 1:
        yield
        return
    distribute_lib._push_per_thread_mode(
        distribute_lib._ThreadMode(_OneReplica(mode.strategy), mode.cross_replica_context, mode.replica_context)
    )
    try:
        yield
    finally:
        distribute_lib._pop_per_thread_mode()
