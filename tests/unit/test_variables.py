"""Slots and weights that another worker holds between steps: where they come together, and what is refused."""

import gc
import weakref
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from kparallel.comm.group import WorkerGroup
from kparallel.compat.copies import as_ordinary
from kparallel.compat.distribute import mirrored
from kparallel.compat.placed_variables import VariableOwner
from kparallel.compat.variables import copies_of, place_variable, variable_of_workers
from kparallel.errors import ModelError, WorkerError
from kparallel.workers.variables import VariablesOfWorkers, bring_together

DEVICE = ("CPU:0",)


class Group(WorkerGroup):
    """Worker 0 of two, as if worker 1 sent sevens; notes who owns what is sent."""

    def __init__(self):
        super().__init__(2, 0)
        self.owners = []

    def all_gather_text(self, text):
        return [text, text]

    def broadcast(self, values, owners=None):
        self.owners.append(list(owners))
        return [
            value if owner == 0 else tf.fill(value.shape, tf.cast(7, value.dtype))
            for value, owner in zip(values, owners, strict=True)
        ]


@pytest.fixture
def made():
    """The slots of a model of two weights: worker 0 holds the kernel's, worker 1 the bias's."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    model.optimizer.build(model.trainable_variables)
    slots = VariablesOfWorkers(Group(), 1, "optimizer")
    slots.belong_to(model)
    momenta = model.optimizer.variables[2:]
    for owner, momentum in enumerate(momenta):
        place_variable(momentum, mirrored(DEVICE), DEVICE, True, VariableOwner(owner, owner == 0, slots))
    return slots, momenta, model


@pytest.fixture
def weights():
    """The weights of a model: worker 0 holds the kernel, worker 1 the bias."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, kernel_initializer="ones")])
    access = VariablesOfWorkers(Group(), 1, "weights")
    access.belong_to(model)
    for owner, weight in enumerate(model.weights):
        place_variable(weight, mirrored(DEVICE), DEVICE, True, VariableOwner(owner, owner == 0, access, is_weight=True))
    return access, model


def test_what_another_worker_holds_is_dropped_before_a_step_and_comes_where_all_gather(made):
    slots, (kernel, bias), _ = made
    assert bias.numpy().tolist() == [0, 0] and not slots.is_apart
    slots.release()
    assert slots.is_apart and variable_of_workers(bias)._held is None and variable_of_workers(kernel)._held is not None
    assert kernel.numpy().tolist() == [[0, 0]] * 3  # Its owner may read it at any time.
    slots.gather()
    assert slots._group.owners == [[0, 1]] and bias.numpy().tolist() == [7, 7]
    bias.assign([1, 2])
    assert bias.numpy().tolist() == [1, 2] and bias.value.dtype == tf.as_dtype(bias.dtype)


@pytest.mark.parametrize(
    "use", [np.array, tf.convert_to_tensor, lambda slot: slot.assign([1, 2]), lambda slot: slot + 1]
)
def test_a_use_on_one_worker_alone_is_refused_and_asks_where_all_answer(made, use):
    slots, (_, bias), _ = made
    slots.release()
    with pytest.raises(ModelError, match="bias.* where all workers pass, received worker 0 alone"):
        use(bias)
    with slots.asking(slots.gather):
        use(bias)
    assert not slots.is_apart and bias.numpy().tolist() in ([7, 7], [1, 2])


def test_an_owner_writes_once_the_slots_are_together(made):
    """Else it would send what it has written as the value before."""
    slots, (kernel, _), _ = made
    slots.release()
    with pytest.raises(ModelError, match="kernel.* to be written where all workers pass"):
        kernel.assign(np.ones((3, 2)))
    with slots.asking(slots.gather):
        kernel.assign(np.ones((3, 2)))
    assert slots._group.owners == [[0, 1]] and kernel.numpy().sum() == 6


def test_an_owner_asks_as_the_others_do_where_all_run_the_same_hook(made):
    """Else it would go on to a prediction, whose collectives wait for the others, which wait for its answer."""
    slots, (kernel, _), _ = made
    slots.release()
    with slots.asking(slots.gather):
        assert kernel.numpy().sum() == 0
        assert not slots.is_apart
        kernel.numpy()
    assert slots._group.owners == [[0, 1]]  # Once.


def test_a_function_may_not_keep_a_copy(made):
    slots, (_, bias), _ = made
    with pytest.raises(ValueError, match="outside of every tf.function"):  # TensorFlow says it in an error of its own.
        tf.function(lambda: tf.identity(bias.value), autograph=False).get_concrete_function()


def test_a_slot_has_a_shape_where_it_has_no_value(made):
    slots, (_, bias), _ = made
    known_by = bias.value._unique_id
    slots.release()
    assert bias.value._unique_id == known_by  # By this, optimizers find the slots of a weight.
    assert bias.shape == (2,) and bias.value.shape == (2,) and bias.value.dtype == tf.as_dtype(bias.dtype)
    assert "bias" in bias.value.name


def test_what_is_placed_since_is_on_every_worker(made):
    slots, (_, bias), _ = made
    slots.release()
    slots.placed()
    assert not slots.is_apart
    slots.gather_if_apart()
    assert not slots._group.owners


def test_a_weight_is_dropped_and_comes_as_a_slot_does(weights):
    access, model = weights
    kernel, bias = model.weights
    dropped = weakref.ref(variable_of_workers(bias).local_copies[0])
    access.release()
    gc.collect()
    assert dropped() is None and not variable_of_workers(bias).local_copies  # Nothing else keeps its bytes.
    with pytest.raises(ModelError, match="the weight '.*bias.*' with shard='weights' to be read where all"):
        bias.numpy()
    access.gather()
    assert bias.numpy().tolist() == [7, 7] and bias.value.values[0].trainable
    np.testing.assert_array_equal(model(np.ones((1, 3))), [[10, 10]])
    assert kernel.numpy().tolist() == [[1, 1]] * 3


def test_a_graph_has_no_weight_of_its_owner_either_but_what_is_traced_to_be_dropped_has(weights):
    """A step that read it would go on where it is, while the other workers refuse it."""
    access, model = weights
    kernel = model.weights[0]

    def traced():
        return tf.function(lambda: tf.identity(kernel.value), autograph=False).get_concrete_function()

    with pytest.raises(ValueError, match="outside of every tf.function.*say shard='optimizer' where a step reads it"):
        traced()
    with as_ordinary(model.weights):
        assert traced()().numpy().tolist() == [[1, 1]] * 3
    access.release()
    with as_ordinary(model.weights):
        traced()  # This worker holds it.
    assert variable_of_workers(kernel) is not None and len(copies_of(kernel)) == 1


@pytest.mark.parametrize("change", [1, 0])
def test_weights_that_were_written_are_compared_before_each_worker_drops_the_others(weights, change, monkeypatch):
    access, model = weights
    sent = []
    # The other worker has the norms that the kernel of ones has, whatever this worker says.
    other = [False, [2.449489742783178, 0.0]]

    def gathered(doing, value):
        sent.append(value)
        return [value, other[len(sent) - 1]]

    monkeypatch.setattr(access._group, "exchange", gathered)
    access.release()
    assert sent == [False]  # Nothing was written.
    access.gather()
    sent.clear()
    model.weights[0].assign_add(np.full((3, 2), change))
    model.weights[1].assign([0, 0])
    if change:
        with pytest.raises(WorkerError, match="same values of weight '.*kernel' on all workers, received worker 0"):
            access.release()
    else:
        access.release()
        assert len(sent) == 2 and access.is_apart


def test_a_function_is_traced_without_what_another_worker_holds(made):
    slots, (_, momentum), _ = made
    slots.release()
    with as_ordinary([momentum], traces_alone=True):
        graph = tf.function(lambda: momentum.assign(momentum + 1)).get_concrete_function().graph
        handle = momentum.value.handle
    assert [id(each) for each in graph.external_captures] == [id(handle)]
    with pytest.raises(ModelError, match=r"after kparallel.bring_together\(model\), which all workers have to call"):
        momentum.numpy()


def test_bring_together_gives_what_others_hold_until_the_next_step(made, monkeypatch):
    slots, (_, momentum), model = made
    bring_together(model)  # It is not wrapped: nothing is shared out.
    monkeypatch.setitem(
        vars(model), "_kparallel", SimpleNamespace(shared_out=slots, placement=SimpleNamespace(group=Group()))
    )
    slots.release()
    bring_together(model)
    np.testing.assert_array_equal(momentum.numpy(), [7.0, 7.0])
    slots.release()
    with pytest.raises(ModelError, match="while each slot is on one worker"):
        momentum.numpy()


class Answering(Group):
    """Worker 0 of two, of which worker 1 has written or not, and has what it is said to have in the place of slots."""

    def __init__(self, written, norms):
        super().__init__()
        self._written, self._norms = written, norms

    def exchange(self, doing, value):
        return [value, self._norms if isinstance(value, list) else self._written]


@pytest.mark.parametrize("call", [VariablesOfWorkers.release, VariablesOfWorkers.gather])
def test_slots_that_one_worker_wrote_are_told_before_they_are_dropped(made, call):
    slots, (kernel, bias), _ = made
    slots._group = Answering(False, [0.0, 0.0])
    bias.assign([3e-30, 4e-30])  # As small as the squares of gradients are.
    with pytest.raises(
        WorkerError, match="values of slot '.*bias.*' on all workers, received .* of 5e-30; .* of 0\\. "
    ):
        call(slots)
    kernel.assign(kernel.value)
    slots._group = Answering(True, [0.0, 5e-30])
    slots.release()
    assert slots.is_apart


def test_nothing_is_compared_where_no_worker_wrote(made):
    slots, *_ = made
    slots._group = Answering(False, ["of no use"])
    slots.release()
    slots.gather()


def test_a_graph_drops_without_a_message_and_a_later_gather_tells_who_wrote(made):
    slots, (_, bias), _ = made
    slots._group = None
    bias.assign([3, 4])
    slots.release_in_graph()
    slots.release_in_graph()
    assert slots.is_apart and variable_of_workers(bias)._held is None
    slots._group = Answering(False, [])
    with pytest.raises(
        WorkerError, match="weights and slots .* on every worker alike .*, received writes on worker 0 alone"
    ):
        slots.gather()
    slots.gather()  # They all went on alike.
    assert bias.numpy().tolist() == [7, 7]


def test_what_all_workers_wrote_before_a_graph_dropped_it_is_no_fault(made):
    slots, (_, bias), _ = made
    bias.assign([3, 4])
    slots.release_in_graph()
    slots._group = Answering(True, [])
    slots.gather()
