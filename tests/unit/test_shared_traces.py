"""A stage's function is traced once for all replicas, where it is the same on each."""

import keras
import numpy as np
import tensorflow as tf

from kparallel.compat.functions import traced
from kparallel.engine.shared_traces import SharedTraces
from tests.pairs import pair

L = keras.layers


def traces_on_two_devices(function):
    strategy, found = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), []
    traces = SharedTraces(function, False)

    def replica(x):
        index = tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)
        place = f"/job:localhost/replica:0/task:0/device:CPU:{index}"
        with tf.device(place):
            found.append(traces.of((x,)))
            call = found[-1](x)
        assert call.device == place
        return call

    traced(lambda x: strategy.run(replica, args=(x,))).get_concrete_function(tf.TensorSpec([2]))
    return found


def test_a_pure_function_is_one_trace_that_names_no_device():
    one, other = traces_on_two_devices(lambda x: tf.tanh(x) * 2.0)
    assert one is other
    assert not any(operation.device for operation in one.graph.get_operations())


def test_draws_devices_and_collectives_make_a_trace_of_each_device():
    def on_a_device(x):
        with tf.device("CPU:1"):
            return x + 1.0

    for function in (lambda x: x + tf.random.normal([2]), on_a_device):
        one, other = traces_on_two_devices(function)
        assert one is not other


class Counting(L.Layer):
    calls = 0

    def call(self, inputs):
        Counting.calls += 1
        return inputs * 1.0


def test_replicas_of_a_pipeline_share_the_traces_of_its_stages():
    calls, x = [], np.ones((8, 3))

    def build():
        return keras.Sequential([keras.Input((3,)), L.Dense(4), Counting(), L.Dense(3)])

    for replicas in (1, 2):
        _, model = pair(build, replicas=replicas, stages=2, microbatches=2, schedule="gpipe", check="off")
        model.compile("sgd", "mse")
        Counting.calls = 0
        model.fit(x[: 4 * replicas], x[: 4 * replicas], batch_size=8, verbose=0)
        calls.append(Counting.calls)
    assert calls[0] == calls[1] > 0
