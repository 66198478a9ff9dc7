"""Names the private name that a release of Keras or TensorFlow moved."""

import inspect
import operator
import threading
import time
from functools import partial

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.backend.tensorflow.trainer import TFEpochIterator
from keras.src.trainers.epoch_iterator import EpochIterator
from tensorflow.python.client import device_lib
from tensorflow.python.distribute import distribute_lib
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended
from tensorflow.python.eager import context

from kparallel.compat.callbacks import (
    backs_up_epochs,
    backup_directory,
    best_weights,
    counted,
    keep_backups_by,
    set_best_weights,
    set_counted,
)
from kparallel.compat.copies import one_copy_each
from kparallel.compat.data import epoch_batches, rows_of_arrays, shuffles_by_epoch
from kparallel.compat.distribute import (
    CollectiveReducer,
    local_replica,
    local_updates,
    mirrored,
    reads_replica_number,
    updates_without_devices,
    whole_losses,
)
from kparallel.compat.draws import drawing_for, is_held, moving_statistics, operation_seeds_put_back
from kparallel.compat.epochs import has_global_seed, why_unrepeatable
from kparallel.compat.functions import (
    called_graphs,
    calls_unknown,
    captured,
    draw_apart,
    of_any_rows,
    outermost,
    run_independently,
    tell_rows,
    traced,
    unoptimized_calls,
    without_devices,
)
from kparallel.compat.layers import float8_variables
from kparallel.compat.losses import metrics_inside
from kparallel.compat.memory import gpu_memory
from kparallel.compat.optimizers import (
    accumulated,
    learning_rates,
    made_outside,
    only_built,
    optimizers_in,
    python_attributes,
    replaced_methods,
    slots_by_weight,
    step_count,
    trained_by,
)
from kparallel.compat.placed_variables import PlacedVariable
from kparallel.compat.profiler import XSpace, read_profile, start_profiler, wall_clock
from kparallel.compat.saving import WeightFile, load_weights, write_weights
from kparallel.compat.startup import abort_collectives, tensorflow_has_started
from kparallel.compat.steps import (
    CountingGenerator,
    converted,
    default_generator,
    default_generator_if_made,
    drawing_from,
    outside_step,
    redirected,
    running,
    through_steps,
)
from kparallel.compat.tensors import keras_mask, set_mask
from kparallel.compat.training import build_layers, renew_functions, resume_at, resumed_epoch, trainer_metrics
from kparallel.compat.updates import as_with_all_gradients, training_only, updating_copies, writing_anew
from kparallel.compat.variables import (
    assign_directly,
    copies_beside,
    foreign_strategy,
    gather_variable,
    has_single_copy,
    is_copy,
    is_placed,
    place_variable,
    placed_value,
    resource_name,
    restore_variable,
)
from kparallel.compat.weightless import build_pending, build_weightless

PAIR = ("CPU:0", "CPU:1")
PRIVATE_NAMES = (
    ("keras.Model", "_flatten_layers"),
    ("keras.Model", "_symbolic_build"),
    ("keras.Model", "_maybe_symbolic_build"),
    ("keras.optimizers.Optimizer", "_all_reduce_sum_gradients"),
    ("keras.optimizers.Optimizer", "_distributed_tf_update_step"),
)


@pytest.mark.parametrize(("owner", "name"), PRIVATE_NAMES)
def test_private_name_exists(owner, name):
    assert hasattr(operator.attrgetter(owner.removeprefix("keras."))(keras), name), f"{owner} lost {name}"


@pytest.mark.parametrize(
    "name", ["_ThreadMode", "_get_default_replica_mode", "_get_per_thread_mode", "_push_per_thread_mode"]
)
def test_a_replicas_thread_has_a_mode(name):
    assert callable(getattr(distribute_lib, name)) and callable(distribute_lib._pop_per_thread_mode)


def test_collectives_are_launched_for_each_device():
    """By `_launchers`, of which `_all_gather` takes rows of equal number."""
    strategy = mirrored(("CPU:0",))
    reducer = CollectiveReducer(["CPU:0"], strategy, 1, tf.distribute.experimental.CommunicationOptions())
    assert reducer.sum([[tf.constant(2.0)]], 0)[0] == 2.0
    np.testing.assert_array_equal(reducer.gather_equal(tf.constant([[1.0]]), 0), [[1.0]])


def test_an_update_may_be_each_replicas_own():
    assert mirrored(("CPU:0",)).extended._use_merge_call() in (True, False)


def test_a_function_may_be_traced_often():
    """Without TensorFlow's warning, which asks `_omit_frequent_tracing_warning`."""
    assert tf.function(lambda: None)._omit_frequent_tracing_warning is False


def test_softmax_leaves_its_logits():
    logits = tf.constant([[1.0, 2.0]])
    assert keras.activations.softmax(logits)._keras_logits is logits


def test_a_mask_is_where_keras_layers_look_for_it():
    """As `_keras_mask`, an attribute of the tensor."""
    rows = tf.constant([[[1.0], [3.0]]])
    set_mask(rows, tf.constant([[True, False]]))
    assert keras_mask(keras.layers.Masking()(rows)) is not None
    np.testing.assert_array_equal(keras.layers.GlobalAveragePooling1D()(rows), [[1.0]])


def test_tensorflow_has_started_once_a_context_has_a_handle():
    tf.constant(0)
    assert context.context()._context_handle is not None and tensorflow_has_started()


def test_a_stateful_layer_knows_its_batch_size():
    layer = keras.layers.LSTM(1, stateful=True)
    layer.build((3, 2, 1))
    assert layer._expected_batch_size == 3


@pytest.mark.parametrize("name", ["_shape", "_direct_assign"])
def test_keras_variables_have_what_is_set_past_their_checks(name):
    assert hasattr(keras.Variable(0.0), name)


@pytest.fixture(scope="module")
def trained():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dropout(0.5)(inputs)))
    model.compile("adam", "mse")
    model.fit(np.ones((3, 3)), np.ones((3, 1)), validation_split=0.4, verbose=0)
    model.predict(np.ones((3, 3)), verbose=0)
    return model


@pytest.mark.parametrize(
    "path",
    [
        "_compile_config.config",
        "_metrics",
        "_loss_tracker",
        "_compile_loss._flat_losses",
        "optimizer._trainable_variables",
        "optimizer._distribution_strategy",
        "layers._metrics",
        "layers._seed_generators",
        "weights._value",
        "weights._value._unique_id",
        "_compile_metrics",
        "_nodes_by_depth",
    ],
)
def test_private_attribute_exists(trained, path):
    first, _, rest = path.partition(".")
    owner = getattr(trained, first)
    if rest:
        assert operator.attrgetter(rest)(owner[-1] if isinstance(owner, list) else owner) is not None
    assert "jit_compile" in trained._compile_config.config


def test_a_model_says_where_its_backup_goes_on(trained):
    assert trained._initial_epoch is None and resumed_epoch(trained) is None
    resume_at(trained, 2)
    assert resumed_epoch(trained) == 2
    resume_at(trained, 0)


def test_the_rows_of_arrays_are_read_from_keras_own_adapter():
    """By `_inputs`."""
    nothing = dict.fromkeys(("sample_weight", "class_weight", "steps_per_epoch"))
    given = {"x": np.ones((5, 2)), "y": np.ones((5, 1)), "batch_size": 2, **nothing}
    inputs, rows, batch_size = rows_of_arrays(given)
    assert len(keras.tree.flatten(inputs)) >= 2 and (rows, batch_size) == (5, 2)


def test_newer_releases_of_keras_shuffle_by_the_epoch():
    """By `_tf_shuffle`, whose seed is the epoch."""
    assert shuffles_by_epoch() == (tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 16))


def test_the_batches_of_an_epoch_are_read_from_keras_own_iterator():
    """By `_distributed_dataset`."""
    iterator = TFEpochIterator(
        x=np.ones((4, 2)), y=np.ones((4, 1)), batch_size=2, distribute_strategy=tf.distribute.get_strategy()
    )
    assert len(list(epoch_batches(iterator))) == 2


def test_a_sequentials_graph_stands_in_functional():
    assert isinstance(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])._functional, keras.Model)


def test_trainer_metrics_are_those_of_compile(trained):
    assert {metric.name for metric in trainer_metrics(trained)} >= {"loss"}


def test_slots_stand_in_lists_as_long_as_the_weights(trained):
    pairs = slots_by_weight(trained.optimizer)
    assert len(pairs) == 2 * len(trained.trainable_weights)
    assert {id(weight) for _, weight in pairs} == set(map(id, trained.trainable_weights))
    assert all(slot.shape == weight.shape for slot, weight in pairs)


def test_counters_are_no_slots_where_there_are_as_many_as_weights():
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build([keras.Variable(np.ones(2)), keras.Variable(np.ones(3))])
    assert len(optimizer.variables) == 2 and not slots_by_weight(optimizer)


def test_the_counters_of_a_loss_scale_are_no_slots_either():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    optimizer.build([keras.Variable(np.ones(size)) for size in range(1, 5)])
    assert len(optimizer.variables) - len(optimizer.inner_optimizer.variables) == 4
    assert not slots_by_weight(optimizer) and len(slots_by_weight(optimizer.inner_optimizer)) == 8


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.Adam(0.5, use_ema=True, gradient_accumulation_steps=2),
        lambda: keras.optimizers.Adafactor(0.5),
        lambda: keras.optimizers.Muon(0.5),
    ],
)
def test_an_optimizer_knows_some_of_its_weights_for_a_while(make):
    """It updates them as one does that was built for them, and is then as it was."""
    values = [np.full(shape, 2.0, "float32") for shape in [(2, 3), (4,), (3, 2)]]
    optimizer, alone = make(), make()
    weights, own = ([keras.Variable(value) for value in some] for some in (values, values[1:]))
    optimizer.build(weights)
    alone.build(own)
    before, names = dict(vars(optimizer)), [each.path for each in optimizer.variables]
    for _ in range(2):
        with training_only([optimizer], lambda weight: weight is not weights[0]):
            assert len(optimizer.variables) == len(alone.variables) and trained_by(optimizer) == weights[1:]
            optimizer.apply([tf.ones(weight.shape) for weight in weights[1:]], weights[1:])
        alone.apply([tf.ones(weight.shape) for weight in own], own)
    for one, other in zip(weights[1:], own, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    np.testing.assert_array_equal(weights[0].numpy(), values[0])
    assert [each.path for each in optimizer.variables] == names
    assert all(vars(optimizer)[name] is value for name, value in before.items() if isinstance(value, list | dict))
    assert (
        optimizer._get_variable_index(weights[2])
        == optimizer._trainable_variables_indices[optimizer._var_key(weights[2])]
    )


def test_optimizers_write_new_values_of_chosen_weights_and_subtract_from_the_others():
    weights = [keras.Variable([1.0, 2.0]), keras.Variable([3.0, 4.0])]
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build(weights)
    operations = {}

    @tf.function
    def update(chosen):
        with writing_anew(optimizer, weights[:chosen]):
            optimizer.apply([tf.constant([1.0, -1.0])] * 2, weights)

    for chosen in (0, 1):
        graph = update.get_concrete_function(chosen).graph
        subtracted = [each for each in graph.get_operations() if each.type == "AssignSubVariableOp"]
        operations[chosen] = [each.inputs[0].name == graph.capture(weights[1].value.handle).name for each in subtracted]
    assert sorted(operations[0]) == [False, True] and operations[1] == [True]
    update(1)
    np.testing.assert_allclose([each.numpy() for each in weights], [[0.9, 2.1], [2.9, 4.1]], rtol=1e-5)
    assert "assign_sub" not in vars(optimizer)


class Layerwise(keras.optimizers.SGD):
    """Has a rate for each weight, found by the weight's number."""

    def update_step(self, gradient, variable, learning_rate):
        number = self._get_variable_index(variable)
        super().update_step(gradient, variable, learning_rate * number / len(self._trainable_variables))


def test_an_optimizer_of_ones_own_numbers_all_of_its_weights_for_each_update():
    weights = [keras.Variable(np.ones(1)) for _ in range(4)]
    optimizer = Layerwise(1.0)
    optimizer.build(weights)
    with training_only([optimizer], lambda weight: weight is weights[3]):
        optimizer.apply([tf.ones(1)], [weights[3]])
        assert trained_by(optimizer) == [weights[3]]
    assert [float(weight.numpy()[0]) for weight in weights] == [1, 1, 1, 0.25]
    assert trained_by(optimizer) == weights and "update_step" not in vars(optimizer)


def test_a_method_that_the_user_has_replaced_is_found_within_a_step():
    optimizer = keras.optimizers.SGD()

    def found():
        with redirected([optimizer], "apply", lambda _, method: _standing_for(method)):
            return replaced_methods(optimizer)

    assert found() == []
    optimizer.apply = print
    assert found() == replaced_methods(optimizer) == ["apply"]


def _standing_for(method):
    def call(*args):
        return method(*args)

    call.__module__ = "kparallel.ownstep.step"
    return call


def test_an_optimizer_acts_as_if_it_were_given_all_gradients():
    inner = keras.optimizers.SGD(1.0, global_clipnorm=5.0)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0)
    weight = keras.Variable(np.zeros(1))
    optimizer.build([weight])
    # The rest is as long as 8, this gradient 2 * 3 / 2: together 10 / sqrt(73) of 5.
    with as_with_all_gradients(optimizer, tf.constant(True), {id(inner): tf.constant(8.0)}):
        optimizer.apply([tf.constant([6.0])], [weight])
    assert weight.numpy() == pytest.approx(-3 * 5 / 73**0.5)
    with as_with_all_gradients(optimizer, tf.constant(False), {}):
        optimizer.apply([tf.constant([6.0])], [weight])
    assert weight.numpy() == pytest.approx(-3 * 5 / 73**0.5) and float(optimizer.dynamic_scale) == 1
    assert not {"check_finite", "_clip_gradients"} & {*vars(optimizer), *vars(inner)}


def test_what_is_accumulated_of_a_weight():
    weights = [keras.Variable(np.ones(2)), keras.Variable(np.ones(3))]
    optimizer = keras.optimizers.SGD(gradient_accumulation_steps=2)
    optimizer.build(weights)
    assert accumulated(optimizer, weights[1]) is optimizer._accumulated_gradients[1]
    plain = keras.optimizers.SGD()
    plain.build(weights)
    assert accumulated(plain, weights[1]) is None


@pytest.mark.parametrize("name", ["_get", "_get_on_device_or_primary", "handle", "read_value", "values"])
def test_mirrored_variables_have_what_placed_ones_redefine(name):
    """Each stands in TensorFlow's own class, whose code calls it."""
    variable = placed(keras.Variable(np.ones(2)))
    assert any(name in vars(kind) for kind in PlacedVariable.__mro__[1:]) or name in vars(variable)


def placed(variable):
    place_variable(variable, mirrored(PAIR), PAIR)
    return variable.value


def copies(variable):
    return [copy.numpy().tolist() for copy in variable.value.values]


def test_the_old_variable_is_the_first_copy_of_a_placed_one():
    variable = keras.Variable(np.ones(2, "float32"), name="weight")
    old = variable.value
    value = placed(variable)
    assert value.values[0] is old and value._unique_id == old._unique_id
    assert [copy.handle._distributed_container() for copy in value.values] == [value, value]
    assert is_placed(variable, mirrored(PAIR), PAIR) and placed_value(variable) is value
    gather_variable(variable, "CPU:0")
    assert variable.value is old and not hasattr(old.handle, "_distributed_container")


def test_copies_have_the_whole_name_of_the_old_variable():
    """By it Keras's optimizers find the weights that a decay leaves out; it has the layer's name."""
    layer = keras.layers.Dense(1, name="norm")
    layer.build((None, 2))
    name = layer.kernel.value.name
    assert name == "norm/kernel:0"
    with tf.name_scope("step"):
        assert [copy.name for copy in placed(layer.kernel).values] == [name, name]
    gather_variable(layer.kernel, "CPU:2")  # Which had none.
    assert layer.kernel.value.name == name


def test_a_variable_with_a_single_copy_is_read_and_written_there_by_all_replicas():
    variable, strategy = keras.Variable(np.ones(2)), mirrored(PAIR)
    old = variable.value
    assert place_variable(variable, strategy, PAIR[1:], single=True) is old
    (copy,) = variable.value.values
    assert copy.device.endswith("CPU:1") and has_single_copy(variable) and not is_copy(copy.handle)
    assert is_placed(variable, strategy, PAIR[1:], single=True) and not is_placed(variable, strategy, PAIR[1:])
    assert variable.value._unique_id == old._unique_id

    @tf.function
    def step():
        def replica():
            variable.assign([2.0, 3.0])
            return variable.value.read_value()

        return strategy.run(replica)

    assert [each.numpy().tolist() for each in strategy.experimental_local_results(step())] == [[2, 3], [2, 3]]
    variable.assign_add([1.0, 1.0])
    assert copy.numpy().tolist() == variable.numpy().tolist() == [3, 4]
    place_variable(variable, strategy, PAIR)
    assert copies(variable) == [[3, 4], [3, 4]] and not has_single_copy(variable)


def test_variables_are_one_copy_each_for_a_while():
    variable = keras.Variable(np.ones(2))
    value = placed(variable)
    with one_copy_each([(variable, 1)]):
        assert variable.value is value.values[1]
        variable.assign([5.0, 6.0])
    assert variable.value is value and copies(variable) == [[1, 1], [5, 6]]


def test_optimizers_know_a_variable_that_lies_on_other_devices_now():
    variable = keras.Variable(np.ones(2, "float32"))
    old, column = variable.value, ("CPU:2", "CPU:3")
    place_variable(variable, mirrored(column), column)
    assert all(copy is not old for copy in variable.value.values)
    assert variable.value._unique_id == old._unique_id
    variable.assign([2.0, 3.0])
    gather_variable(variable, "CPU:1")
    assert variable.value.device.endswith("CPU:1") and variable.value._unique_id == old._unique_id
    assert variable.numpy().tolist() == [2.0, 3.0]


def test_a_variable_is_restored():
    variable = keras.Variable(np.ones(2, "float32"))
    old = variable.value
    assert place_variable(variable, mirrored(PAIR), PAIR) is old
    restore_variable(variable, old)
    assert variable.value is old and not hasattr(old.handle, "_distributed_container")


def test_all_copies_are_written_outside_a_step():
    variable = keras.Variable(np.ones(2, "float32"))
    value = placed(variable)
    variable.assign([2.0, 3.0])
    value.assign_add([1.0, 1.0])
    value.assign_sub([2.0, 1.0])
    value.scatter_add(tf.IndexedSlices(tf.constant([5.0]), tf.constant([1])))
    assert copies(variable) == [[1.0, 8.0]] * 2
    assert variable.numpy().tolist() == [1.0, 8.0] and tf.convert_to_tensor(value).numpy().tolist() == [1.0, 8.0]


def test_a_replica_writes_its_own_copy():
    variable = keras.Variable(0.0)
    placed(variable)

    @tf.function(autograph=False)
    def step():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        variable.assign_add(1.0 + tf.cast(replica, "float32"))

    mirrored(PAIR).run(step)
    assert copies(variable) == [1.0, 2.0]


def test_placed_scalars_are_numbers():
    variable = keras.Variable(3, dtype="int32")
    value = placed(variable)
    assert (int(value), float(value), complex(value), bool(value)) == (3, 3.0, 3 + 0j, True)
    assert np.asarray(value) == 3
    variable.assign(0)
    assert not value


def test_a_variable_of_another_strategy_is_known():
    strategy = tf.distribute.MirroredStrategy(PAIR)
    with strategy.scope():
        variable = keras.Variable(1.0)
    assert foreign_strategy(variable) is strategy
    own = keras.Variable(1.0)
    placed(own)
    assert foreign_strategy(own) is None


def test_the_chiefs_value_is_sent_as_a_variable_is_made():
    parameters = inspect.signature(CollectiveAllReduceExtended._get_variable_creator_initial_value).parameters
    assert {"replica_id", "device", "primary_var"} <= parameters.keys()


def test_an_optimizer_in_a_step_takes_summed_gradients_in_the_replicas_strategy():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    both = optimizers_in(optimizer)
    assert both == [optimizer, optimizer.inner_optimizer]
    before = [each._distribution_strategy for each in both]
    with mirrored(PAIR).scope(), updating_copies(both):
        assert {each._distribution_strategy for each in both} == {mirrored(PAIR)}
        assert optimizer._all_reduce_sum_gradients([(1, 2)]) == [(1, 2)]
    assert [each._distribution_strategy for each in both] == before
    assert all("_all_reduce_sum_gradients" not in vars(each) for each in both)


def test_layers_are_built_from_specs():
    model = keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(1)])
    build_layers(model, (tf.TensorSpec((5, 3), tf.float32), tf.TensorSpec((5, 1), tf.float32)))
    assert [tuple(weight.shape) for weight in model.weights] == [(3, 2), (2,), (2, 1), (1,)]


def test_functions_have_what_orders_stateful_operations():
    @tf.function(autograph=False)
    def two(value):
        one = tf.numpy_function(lambda v: v, [value], tf.float32)
        run_independently(one.op)
        tf.numpy_function(lambda v: v, [value], tf.float32)
        return one

    operations = two.get_concrete_function(tf.ones(2)).graph.get_operations()
    first, second = [operation for operation in operations if operation.type == "PyFunc"]
    assert first not in second.control_inputs and second not in first.control_inputs


def test_graphs_of_called_functions_are_found():
    """By their names, from `Graph._get_function`."""
    inner = tf.function(lambda value: value + 1.0, autograph=False)

    @tf.function(autograph=False)
    def outer(value):
        value = tf.cond(value > 0, lambda: value + 2.0, lambda: value)
        return inner(tf.while_loop(lambda v: v < 3.0, lambda v: (v + 1.0,), (value,))[0])

    operations = outer.get_concrete_function(tf.TensorSpec(())).graph.get_operations()
    found = [graphs for graphs in map(called_graphs, operations) if graphs]
    assert [set(graphs) for graphs in found] == [{"then_branch", "else_branch"}, {"body", "cond"}, {"f"}]
    for operation, graphs in zip([o for o in operations if called_graphs(o)], found, strict=True):
        for name, graph in graphs.items():
            assert len(graph.inputs) == len(operation.inputs) - name.endswith("_branch"), name
            assert name == "cond" or len(graph.outputs) == len(operation.outputs), name


@pytest.mark.parametrize("layer", [keras.layers.Dense(2), keras.layers.EinsumDense("ab,bc->ac", 2)])
def test_the_variables_of_float8_are_found(layer):
    layer.build((None, 3))
    layer.quantize("float8")
    assert len(float8_variables([layer])) == 6


def test_the_same_devices_have_one_strategy_and_others_number_their_collectives_apart():
    assert mirrored(PAIR) is mirrored(("CPU:0", "CPU:1"))
    strategies = [mirrored(PAIR), mirrored(("CPU:1", "CPU:0")), mirrored(("CPU:2", "CPU:3"))]
    first, *others = sorted(strategy.extended._collective_keys._group_key for strategy in strategies)
    assert len(others) == 2 and all(
        other - before >= 16 for before, other in zip([first, *others], others, strict=False)
    )


def add_event(plane, line, name, start, end, **stats):
    plane.event_metadata[len(plane.event_metadata) + 1].name = name
    event = line.events.add(metadata_id=len(plane.event_metadata), offset_ps=start, duration_ps=end - start)
    for key, value in stats.items():
        for text in (key, value):
            plane.stat_metadata[len(plane.stat_metadata) + 1].name = text
        number = len(plane.stat_metadata)
        event.stats.add(metadata_id=number - 1, ref_value=number)


@pytest.mark.parametrize("gpu", [False, True])
def test_a_profile_is_read(gpu):
    """Of a host alone, its pool's operations; beside GPUs, their streams' kernels with the operation of each."""
    space = XSpace()
    host = space.planes.add(name="/host:CPU")
    python = host.lines.add(name="python", id=1, timestamp_ns=5_000)
    pool = host.lines.add(name="tf_Compute/2", id=2, timestamp_ns=5_001)
    add_event(host, python, "one", 0, 10)
    add_event(host, pool, "0F0/a:MatMul", 1_000_000, 3_000_000)
    if gpu:
        device = space.planes.add(name="/device:GPU:0")
        stream = device.lines.add(name="Stream #13", id=3, timestamp_ns=5_002)
        add_event(device, stream, "ampere_sgemm", 0, 2_000_000, tf_op="0F0/a:MatMul")
    environment = space.planes.add(name="Task Environment")
    environment.stat_metadata[1].name = "profile_start_time"
    environment.stats.add(metadata_id=1, uint64_value=7_000_000)
    profile = space.SerializeToString()
    assert wall_clock(profile) == 7_005_000 and wall_clock(XSpace().SerializeToString()) == 0
    first, second = read_profile(profile)
    assert [(e.thread, e.start) for e in read_profile(profile, "worker1/", 2.0)][0] == ("worker1/python/1", 2.0)
    assert (first.thread, first.name, first.start, first.end) == ("python/1", "one", 0.0, 1e-11)
    assert second.thread == ("/device:GPU:0/Stream #13" if gpu else "tf_Compute/2/2")
    assert second.stats.get("tf_op", second.name) == "0F0/a:MatMul"
    assert (second.start, second.end) == pytest.approx((2e-9, 2.002e-6) if gpu else (1.001e-6, 3.001e-6))


def test_a_profile_tells_when_it_began(tmp_path):
    before = time.time_ns()
    start_profiler(str(tmp_path))
    with tf.profiler.experimental.Trace("within"):
        between = time.time_ns()
    tf.profiler.experimental.stop()
    [path] = tmp_path.glob("plugins/profile/*/*.xplane.pb")  # As `machines.profiles` looks for it on a server.
    profile = path.read_bytes()
    [within] = [event for event in read_profile(profile) if event.name == "within"]
    assert before < wall_clock(profile) <= wall_clock(profile) + within.start * 1e9 < between + 1e6


def test_a_captured_resource_tells_its_variable_and_whether_it_is_a_copy():
    variable, single = keras.Variable(np.ones(2, "float32"), name="both"), tf.Variable(1.0, name="one")
    place_variable(variable, mirrored(PAIR), PAIR)
    copy = variable.value.values[1]

    def write():
        for each in (copy, single):
            each.assign_add(tf.ones_like(each))

    graph = tf.function(write, autograph=False).get_concrete_function().graph
    written = [operation for operation in graph.get_operations() if operation.type == "AssignAddVariableOp"]
    handles = [captured(operation.inputs[0]) for operation in written]
    assert [is_copy(handle) for handle in handles] == [True, False]
    assert handles == [copy.handle, single.handle] and resource_name(single.handle) == "one"
    assert captured(written[0].inputs[1]) is None


def test_a_variable_is_assigned_past_a_stateless_scope():
    variable = keras.Variable(1.0)
    with keras.StatelessScope():
        assign_directly(variable, 2.0)
    assert float(variable) == 2.0


def test_functions_are_renewed_that_were_made(trained):
    before, trained.test_function = trained.train_function, None
    renew_functions(trained)
    assert trained.test_function is None and trained.train_function not in (None, before)


def test_a_keras_loss_in_a_replica_is_whole():
    strategy = mirrored(PAIR)
    ones, zeros = tf.ones((2, 3)), tf.zeros((2, 3))

    def both():
        loss = keras.losses.MeanSquaredError()
        with whole_losses():
            index = tf.distribute.get_replica_context().replica_id_in_sync_group
            return loss(ones, zeros), tf.distribute.get_replica_context().all_reduce("sum", tf.cast(index, "float32"))

    for value, summed in zip(*map(strategy.experimental_local_results, strategy.run(tf.function(both))), strict=True):
        assert (float(value), float(summed)) == (1.0, 1.0)


def test_collectives_can_be_aborted(monkeypatch):
    """In a cluster tests/process/test_departure.py does it; here it would end the collectives of all other tests."""
    told = []
    monkeypatch.setattr(context.context(), "abort_collective_ops", lambda *told_of: told.append(told_of))
    abort_collectives("because")
    assert told == [(tf.errors.UNAVAILABLE, "because")]
    assert list(inspect.signature(type(context.context()).abort_collective_ops).parameters) == [
        "self",
        "code",
        "message",
    ]


def test_keras_goes_through_epochs_by_one_method(monkeypatch):
    """`TrainingData` puts itself in its place, and sets where a pass stands."""
    source = inspect.getsource(EpochIterator)
    for name in ("self._enumerate_iterator()", "self._current_iterator", "self._steps_seen", "self._num_batches"):
        assert name in source, name
    assert "initial_epoch = self._initial_epoch or initial_epoch" in inspect.getsource(keras.Model.fit)
    assert "self._get_metrics_result_or_logs(logs)" in inspect.getsource(keras.Model.fit)


SEEDS = keras.random.SeedGenerator(3)


def drawing(draw, element):
    return tf.cast(element, tf.float32) + draw([])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data.shuffle(3, seed=1).map(lambda x: x).prefetch(1), ""),
        (lambda data: data.shuffle(3), "shuffles without a seed"),
        (lambda data: data.shuffle(3).batch(2).prefetch(1), "shuffles without a seed"),
        (lambda data: data.interleave(lambda x: tf.data.Dataset.range(x).shuffle(2)), "shuffles without a seed"),
        (lambda data: data.interleave(lambda x: tf.data.Dataset.range(x).shuffle(2, seed=1)), ""),
        (lambda data: data.map(lambda x: tf.random.uniform([])), "RandomUniform"),
        (lambda data: data.map(lambda x: tf.random.uniform([], seed=1)), ""),
        (
            lambda data: tf.data.Dataset.from_generator(lambda: iter([1]), output_signature=tf.TensorSpec([])),
            "a generator",
        ),
        (lambda data: data.map(lambda x: x, 2, deterministic=False), "no fixed order"),
        (lambda data: data.map(partial(drawing, tf.random.Generator.from_seed(1).normal)), "changes a variable"),
        (lambda data: data.map(partial(drawing, partial(keras.random.normal, seed=SEEDS))), "changes a variable"),
        (lambda data: data.map(tf.function(partial(drawing, partial(keras.random.normal, seed=SEEDS)))), "changes a"),
        (lambda data: data.map(tf.function(partial(drawing, partial(keras.random.normal, seed=3)))), ""),
    ],
)
def test_what_cannot_be_repeated_is_read_off_a_dataset(change, reason):
    tf.random.set_seed(None)
    assert not has_global_seed()
    told = why_unrepeatable(change(tf.data.Dataset.range(4)))
    assert reason in told and bool(reason) == bool(told), told
    tf.random.set_seed(1)
    assert has_global_seed()


def contents(path):
    """Return the groups and datasets of an HDF5 file with their attributes and types."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: (dict(item.attrs), str(getattr(item, "dtype", "")))}))
    return found


def test_a_weight_file_is_written_as_keras_writes_it(trained, tmp_path):
    """From what `saving_lib._save_state` hands to a store."""
    write_weights(WeightFile(trained).capture()[0], tmp_path / "ours.weights.h5")
    trained.save_weights(tmp_path / "keras.weights.h5")
    values = []
    for name in ("ours", "keras"):
        trained.load_weights(tmp_path / f"{name}.weights.h5")
        values.append([np.array(variable) for variable in [*trained.weights, *trained.optimizer.variables]])
    for ours, theirs in zip(*values, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert contents(tmp_path / "ours.weights.h5") == contents(tmp_path / "keras.weights.h5")


class WithoutCall(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


def test_a_model_without_a_call_takes_a_weight_file(tmp_path):
    one, other = WithoutCall(), WithoutCall()
    one.compile("sgd")
    write_weights(WeightFile(one).capture()[0], tmp_path / "ours.weights.h5")
    with pytest.raises(ValueError, match="not yet been built"):
        other.load_weights(tmp_path / "ours.weights.h5")
    load_weights(other, tmp_path / "ours.weights.h5")
    np.testing.assert_array_equal(*(each.inner.layers[0].kernel for each in (one, other)))
    assert not other.built


def test_a_backup_is_kept_by_other_functions(tmp_path):
    """By `_save_model` and `_load_model`, which Keras calls, and `_current_epoch`, which it counts."""
    backup, saved = keras.callbacks.BackupAndRestore(tmp_path), []
    keep_backups_by(backup, saved.append, lambda: True)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=3, verbose=0, callbacks=[backup])
    assert saved == [1, 2, 3] and backs_up_epochs(backup) and backup_directory(backup) == tmp_path
    assert not backs_up_epochs(keras.callbacks.BackupAndRestore(tmp_path, save_freq=2))


# Each with attributes of its own, besides what it was made with, that a `fit` changes.
COUNTING = {
    "EarlyStopping": lambda: keras.callbacks.EarlyStopping("loss", restore_best_weights=True),
    "ReduceLROnPlateau": lambda: keras.callbacks.ReduceLROnPlateau("loss", min_delta=9, cooldown=1),
    "ModelCheckpoint": lambda: keras.callbacks.ModelCheckpoint("x.keras", save_freq=4),
    "SwapEMAWeights": lambda: keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
    "TensorBoard": lambda: keras.callbacks.TensorBoard("logs"),
}
# What another process makes anew: files, names of places, what is done once, and how values are compared.
ANEW = {"_model", "params", "_current_epoch", "monitor_op", "min_delta", "_previous_epoch_iterations"}
ANEW |= {"_summary_module", "_log_write_dir", "_should_write_train_graph", "_prev_summary_state"}
ANEW |= {"_train_writer", "_val_writer", "_writers", "_train_dir", "_val_dir", "_train_step", "_val_step"}


@pytest.mark.parametrize("name", COUNTING)
def test_all_that_a_callback_of_keras_counts_is_known(name, tmp_path, monkeypatch):
    """By its attributes that differ after a `fit`: one that a release adds is met here."""
    monkeypatch.chdir(tmp_path)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01, use_ema=True), "mse")
    model.optimizer.build(model.trainable_variables)
    used, fresh = COUNTING[name](), COUNTING[name]()
    model.fit(np.ones((6, 2)), np.ones((6, 1)), batch_size=2, epochs=3, verbose=0, callbacks=[used])
    known = counted(used)
    changed = {key for key, value in vars(used).items() if not np.array_equal(value, vars(fresh).get(key))}
    assert changed - ANEW - known.keys() <= {"best_weights"}
    assert known.items() != counted(fresh).items()
    set_counted(fresh, known)
    set_best_weights(fresh, best_weights(used))
    assert counted(fresh) == known and len(best_weights(fresh)) == (2 if name == "EarlyStopping" else 0)
    assert counted(keras.callbacks.TerminateOnNaN()) == {} and best_weights(keras.callbacks.TerminateOnNaN()) == []


class Doubling:
    """A step that doubles gradients."""

    def gradient(self, compute, target, sources, output_gradients):
        return [2 * gradient for gradient in compute(output_gradients)]

    def jacobian(self, compute, target, sources):
        return [3 * jacobian for jacobian in compute()]

    def apply(self, optimizer, original, grads, trainable_variables=None):
        return original([10 * gradient for gradient in grads], trainable_variables)


def slope(weight):
    with tf.GradientTape() as tape:
        loss = 3 * weight
    return float(tape.gradient(loss, [weight])[0])


def test_gradients_go_through_the_step_of_their_own_thread_alone():
    weight, elsewhere, original = tf.Variable(1.0), [], tf.GradientTape.gradient
    with through_steps():
        assert slope(weight) == 3
        with running(Doubling()):
            assert slope(weight) == 6
            thread = threading.Thread(target=lambda: elsewhere.append(slope(weight)))
            thread.start()
            thread.join()
            with outside_step():
                assert slope(weight) == 3
    assert elsewhere == [3] and tf.GradientTape.gradient is original


def test_a_jacobian_goes_through_the_step_and_so_do_the_gradients_of_which_it_is_made():
    weight, original = tf.Variable(1.0), tf.GradientTape.jacobian
    with through_steps(), running(Doubling()), tf.GradientTape() as tape:
        target = tf.stack([weight, 5 * weight])
        found = tape.jacobian(target, [weight])[0]
    assert found.numpy().tolist() == [6, 30] and tf.GradientTape.jacobian is original


@pytest.mark.parametrize("scaled", [False, True])
def test_updates_go_through_the_step_that_runs(scaled):
    weight, optimizer = keras.Variable(1.0), keras.optimizers.SGD(0.1)
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0) if scaled else optimizer
    kinds = (keras.optimizers.Optimizer, keras.optimizers.LossScaleOptimizer)
    before = [kind.apply for kind in kinds]
    optimizer.build([weight])
    with through_steps(), running(Once()):
        optimizer.apply_gradients([(tf.constant(1.0), weight)])
    assert float(weight) == 0.0
    assert [kind.apply for kind in kinds] == before


class Once(Doubling):
    """A step that has the outermost optimizer take ten times the gradient."""

    def apply(self, optimizer, original, grads, trainable_variables=None):
        with outside_step():
            return super().apply(optimizer, original, grads, trainable_variables)


def test_a_step_sees_one_replica_and_a_loop_all():
    seen = []

    def count(loop):
        with running(Doubling(), loop=loop):
            seen.append(tf.distribute.get_strategy().num_replicas_in_sync)

    mirrored(PAIR).run(count, args=(False,))
    mirrored(PAIR).run(count, args=(True,))
    assert seen == [1, 1, 2, 2]


def test_keras_draws_from_the_generator_of_the_thread():
    generator = keras.random.SeedGenerator(3)
    with drawing_from(generator):
        drawn = keras.random.normal((2,))
    np.testing.assert_array_equal(drawn, keras.random.normal((2,), seed=keras.random.SeedGenerator(3)))
    assert default_generator() is not generator
    assert default_generator_if_made() is default_generator()


def test_draws_without_a_seed_are_counted():
    """Keras asks for them by `next(ordered=False)`."""
    generator = CountingGenerator(7)
    with drawing_from(generator):
        first, second = keras.random.normal((2,)), keras.random.normal((2,))
    assert generator.state.numpy().tolist() == [7, 2] and not np.array_equal(first, second)


def test_learning_rates_of_all_optimizers_are_found():
    inner = keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5))
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.25))
    assert [float(rate) for rate in learning_rates(scaled)] == [0.0, 0.25]  # Keras reads the inner one alone.
    assert learning_rates(inner) == learning_rates(None) == []


@pytest.mark.parametrize(
    "name", ["normal", "uniform", "randint", "truncated_normal", "gamma", "dropout", "categorical"]
)
def test_keras_draws_for_other_rows(name):
    class Second:
        def number(self, rows):
            return 4

        def own(self, drawn):
            return drawn[1:2]

        def among(self, given):
            return tf.pad(given, [[1, 2], [0, 0]])

    arguments = {"randint": {"minval": 0, "maxval": 99}, "gamma": {"alpha": 1.0}, "dropout": {"rate": 0.5}}
    arguments["categorical"] = {"num_samples": 2}
    draw = getattr(keras.random, name)

    def given(rows):
        return tf.ones((rows, 3)) if name in ("dropout", "categorical") else (rows, 3)

    whole = draw(given(4), seed=5, **arguments.get(name, {}))
    with drawing_for(Second):
        part = draw(given(1), seed=5, **arguments.get(name, {}))
    np.testing.assert_array_equal(part, whole[1:2])


@pytest.mark.parametrize(
    "draw",
    [
        lambda shape: tf.random.normal(shape, 5.0, 2.0, tf.float64),
        lambda shape: tf.random.uniform(shape, -1.0, 1.0),
        lambda shape: tf.random.uniform(shape, 0, 99, tf.int64),
        lambda shape: tf.random.truncated_normal(shape, seed=3),
        lambda shape: tf.nn.dropout(tf.ones(shape), 0.5),
        lambda shape: tf.image.random_flip_left_right(tf.tile(tf.range(3.0)[None, None, :, None], [shape[0], 1, 1, 1])),
    ],
)
def test_tensorflow_draws_for_other_rows(draw):
    class Part:
        def __init__(self, first, rows):
            self.first, self.rows, self.seeds = first, rows, []

        def number(self, rows):
            return 4 if rows == self.rows else None

        def seed(self):
            self.seeds.append(7)
            return 7

        def own(self, drawn):
            return drawn[self.first : self.first + self.rows]

    tf.random.set_seed(1)
    whole, second = Part(0, 4), Part(1, 2)
    with operation_seeds_put_back():
        with drawing_for(lambda: whole):
            numbers = draw((4, 3))
        with drawing_for(lambda: second):
            np.testing.assert_array_equal(draw((2, 3)), numbers[1:3])
        assert whole.seeds == second.seeds == [7] and len(set(numbers.numpy().ravel())) > 1
    after = tf.random.uniform((3,))
    tf.random.set_seed(1)
    np.testing.assert_array_equal(after, tf.random.uniform((3,)))
    with tf.Graph().as_default() as graph:
        draw((4, 3))
        assert not is_held(tf.constant(1.0).op)
    held = [is_held(operation) for operation in graph.get_operations() if operation.type.startswith(("Rand", "Trunc"))]
    assert held == [True]


def test_the_rows_of_a_tensor_are_told_once_its_graph_is_traced():
    """By `_set_attr` of the operation that hid them."""
    seen = []

    @traced
    def rows(tensor):
        free = of_any_rows(tensor)
        seen.append(free.shape[0])
        number = tf.shape(free)[0]
        tell_rows(free)
        return number, free

    number, free = rows(tf.ones((3, 2)))
    operation = rows.get_concrete_function(tf.ones((3, 2))).graph.get_operations()[1]
    assert seen == [None] and number.numpy() == 3 and free.shape == (3, 2)
    assert operation.type == "PlaceholderWithDefault"
    assert [dim.size for dim in operation.get_attr("shape").dim] == [3, 2]


@pytest.mark.parametrize(("shape", "shared"), [((None, 1), False), ((4, 1), False), ((1, 3), True)])
def test_a_mask_of_a_shape_of_its_own_is_drawn_for_other_rows(shape, shared):
    class Second:
        def number(self, rows):
            return None if rows == 1 else 4

        def own(self, drawn):
            return drawn[1:3]

        def among(self, given):
            return tf.pad(given, [[1, 1], [0, 0]])

    whole = keras.random.dropout(tf.ones((4, 3)), 0.5, noise_shape=shape, seed=5)
    with drawing_for(Second):
        part = keras.random.dropout(tf.ones((2, 3)), 0.5, noise_shape=(2, 1) if shape[0] == 4 else shape, seed=5)
    np.testing.assert_array_equal(part, whole[1:3])
    assert shared == np.array_equal(whole, np.repeat(whole[:1], 4, axis=0))


def test_batch_norm_rests():
    norm = keras.layers.BatchNormalization()
    norm.build((None, 2))
    with moving_statistics([norm]):
        np.testing.assert_allclose(norm(np.ones((3, 2), "float32"), training=True), 1, atol=1e-2)
    assert "call" not in vars(norm) and not norm.moving_mean.numpy().any()


def test_the_graph_of_another_worker_draws_apart():
    tf.random.set_seed(1)

    def draw(number):
        def drawn():
            draw_apart(tf.compat.v1.get_default_graph(), number)
            return tf.random.normal((2,))

        return tf.function(drawn)().numpy().tolist()

    assert draw(0) == draw(0) != draw(1)


def test_metrics_inside_a_metric():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    model.fit(np.ones((2, 1)), np.ones((2, 1)), verbose=0)
    assert "mae" in {metric.name for metric in metrics_inside(model._compile_metrics)}


def test_the_count_of_steps_is_a_variable_also_where_updates_are_fewer():
    """From `_iterations`."""
    optimizer = keras.optimizers.SGD(gradient_accumulation_steps=2)
    optimizer.build([keras.Variable(1.0)])
    assert step_count(optimizer) is optimizer.variables[0] and optimizer.iterations is not optimizer.variables[0]


def test_an_optimizer_is_built_outside_of_a_trace_and_updates_nothing():
    adam, weight, traces = keras.optimizers.Adam(), keras.Variable([1.0, 2.0]), []

    def step():
        traces.append(None)
        adam.apply([tf.ones(2)], [weight])

    with only_built([adam]):
        graph = tf.function(step, autograph=False).get_concrete_function().graph
    assert len(traces) == 1  # TensorFlow traces a function that has made variables twice.
    assert not any(operation.type in ("If", "Sqrt") for operation in graph.get_operations())
    assert adam.built and all(np.array_equal(each, np.zeros(2)) for each in adam.variables[2:])
    step()
    assert not np.array_equal(weight, [1.0, 2.0])


def test_a_variable_whose_first_value_is_a_traces_stays_in_it():
    made = []

    @tf.function(autograph=False)
    def function(x):
        if not made:
            with made_outside():
                made.extend([tf.Variable(x), tf.Variable(lambda: tf.ones(()))])
        return made[0] + made[1]

    assert float(function(tf.constant(2.0))) == 3.0
    assert type(made[0]) is not type(made[1])


def test_weights_that_an_optimizer_was_built_for(trained):
    assert len(trained_by(trained.optimizer)) == len(trained.trainable_weights)


def test_autograph_converts_what_a_loop_runs():
    def positive(value):
        if value > 0:
            return value
        return -value

    assert converted(positive) is positive
    assert float(tf.function(lambda value: converted(positive)(value), autograph=False)(tf.constant(-2.0))) == 2.0


def test_tapes_record_outside_of_all_graphs():
    found = []

    def inner(weight):
        with outermost():
            found.append((tf.executing_eagerly(), slope(weight)))

    weight = tf.Variable(1.0)
    tf.function(lambda: inner(weight), autograph=False)()
    assert found == [(True, 3.0)] and slope(weight) == 3.0


def test_an_update_names_no_device_and_takes_its_replicas_copy():
    """By `_get_replica` of the variable."""
    variable = keras.Variable(np.ones(2, "float32"), name="both")
    strategy = mirrored(PAIR)
    place_variable(variable, strategy, PAIR)
    found = []

    def update():
        def trace():
            strategy.extended.update(variable.value, lambda copy: found.append(copy) or copy.assign_add([1.0, 1.0]))

        index = local_replica()
        with local_updates(strategy), updates_without_devices(strategy):
            graph = tf.function(trace, autograph=False).get_concrete_function().graph
        assert {operation.device for operation in graph.get_operations()} == {""}
        assert found[-1] is variable.value.values[index]

    tf.function(lambda: strategy.run(update), autograph=False).get_concrete_function()
    assert len(found) == 2 and "_replica_ctx_update" not in vars(strategy.extended)


def test_calls_may_be_left_unoptimized():
    inner = tf.function(lambda value: value + 1.0, autograph=False, experimental_attributes={"_noinline": True})

    @tf.function(autograph=False)
    def outer(value):
        with unoptimized_calls():
            value = inner(value)
        return inner(value)

    graph = outer.get_concrete_function(tf.TensorSpec(())).graph
    calls = [operation for operation in graph.get_operations() if called_graphs(operation)]
    configs = [tf.compat.v1.ConfigProto.FromString(call.get_attr("config_proto")) for call in calls]
    assert [config.graph_options.rewrite_options.disable_meta_optimizer for config in configs] == [True, False]


def test_what_is_traced_without_devices_names_none():
    """While TensorFlow keeps a graph's device scopes in `_device_function_stack`."""

    def step():
        with tf.device("CPU:1"):
            with without_devices():
                anywhere = tf.ones(())
            return anywhere, tf.ones(())

    anywhere, there = tf.function(step, autograph=False).get_concrete_function().outputs
    assert not anywhere.op.inputs[0].op.device and there.op.inputs[0].op.device.endswith("CPU:1")
    with without_devices():  # Outside of a graph there is nothing to leave.
        assert float(tf.ones(())) == 1.0


def test_who_reads_the_replicas_number_is_told():
    found = []

    def replica():
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        found.append(reads_replica_number(number.op))
        found.append((number + 1).dtype and reads_replica_number(number.op))

    tf.function(lambda: mirrored(PAIR).run(replica), autograph=False).get_concrete_function()
    assert found == [False, True] * 2


def test_calls_of_unknown_kinds_are_told():
    def three(value):
        value = tf.switch_case(tf.cast(value, tf.int32), [lambda: value, lambda: value + 1.0])
        return tf.cond(value > 0, lambda: value, lambda: -value)

    graph = tf.function(three, autograph=False).get_concrete_function(tf.TensorSpec(())).graph
    assert {operation.type for operation in graph.get_operations() if calls_unknown(operation)} == {"StatelessCase"}


def test_a_function_of_tensorflow_1_gives_no_graph():
    """The CTC loss loops over one."""

    def loss(logits):
        return keras.ops.ctc_loss(np.array([[1], [2]]), logits, np.array([1, 1]), np.array([3, 3]))

    graph = tf.function(loss, autograph=False).get_concrete_function(tf.TensorSpec((2, 3, 4))).graph
    assert {operation.type for operation in graph.get_operations() if calls_unknown(operation)} == {"While"}


def test_all_copies_of_a_captured_one_are_found():
    variable, single = keras.Variable(1.0), tf.Variable(1.0)
    place_variable(variable, mirrored(PAIR), PAIR)
    handles = [copy.handle for copy in variable.value.values]
    assert copies_beside(handles[1]) == handles and copies_beside(single.handle) is None


def test_what_decides_a_trace_is_told_from_what_a_trace_or_a_checkpoint_leaves():
    optimizer, kept = keras.optimizers.AdamW(), "_exclude_from_weight_decay_cache"
    optimizer.build([keras.Variable(1.0)])
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    attributes = python_attributes(optimizer)
    assert kept in vars(optimizer) and kept not in attributes
    assert {"_learning_rate", "clipnorm", "_variables", "_momentums"} <= attributes.keys()
    assert not any(name.startswith("_self_") for name in attributes)


def test_keras_initializes_nothing_of_a_weightless_model_later():
    model = build_weightless(lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
    with keras.StatelessScope():  # When it ends, Keras initializes what waits in "uninitialized_variables".
        waiting = keras.Variable(lambda shape, dtype: keras.ops.ones(shape, dtype), shape=(2,))
    assert waiting.numpy().tolist() == [1, 1]
    assert all(weight.shape and weight._value is None for weight in model.weights)


def test_keras_initializes_a_variable_later_on_request():
    """By `_deferred_initialize`, with `_initializer`; layers are numbered in "object_name_uids"."""
    keras.utils.set_random_seed(1)
    want = keras.layers.Dense(2)
    want.build((None, 3))
    names = dict(global_state.get_global_attribute("object_name_uids"))
    keras.utils.set_random_seed(1)
    made, pending = build_pending(lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
    kernel, bias = pending.variables
    assert kernel._value is None and callable(kernel._initializer) and callable(kernel._deferred_initialize)
    pending.initialize(kernel)
    assert bias._value is None and np.array_equal(kernel.numpy(), want.kernel.numpy())
    pending.finish()
    assert bias.numpy().tolist() == [0, 0] and made.weights == [kernel, bias]
    assert global_state.get_global_attribute("object_name_uids")["dense"] == names["dense"] + 1


def test_a_failed_build_is_made_again_with_the_same_names_and_draws():
    keras.utils.set_random_seed(1)
    want = keras.layers.Dense(2)
    want.build((None, 3))
    keras.utils.set_random_seed(1)

    def build():
        layer = keras.layers.Dense(2)
        layer.build((None, 3))
        keras.Variable(np.ones(2))  # Refused in a stateless scope.
        return layer

    made, pending = build_pending(build)
    assert not pending.variables and np.array_equal(made.kernel.numpy(), want.kernel.numpy())
    assert int(made.name.rpartition("_")[2] or 0) == int(want.name.rpartition("_")[2] or 0) + 1


def test_the_memory_of_gpus():
    assert (gpu_memory() is None) == (not tf.config.list_physical_devices("GPU"))
    assert all(device.memory_limit > 0 for device in device_lib.list_local_devices() if device.device_type == "CPU")
