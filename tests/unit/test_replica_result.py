"""What the passes of one replica leave."""

from types import SimpleNamespace

import tensorflow as tf

from kparallel.engine.replica_result import ReplicaResult
from kparallel.engine.stage_device import StageDevice


def before():
    """Return the result of a replica of two stages with two weights and no state, before its first action."""
    weights = [[tf.constant(1.0), tf.constant(2.0)], [tf.constant(3.0), tf.constant(4.0)]]
    stages = [
        SimpleNamespace(
            weights=[SimpleNamespace(value=w, _value=w) for w in own],
            state=SimpleNamespace(variables=[], read=lambda index, known: []),
        )
        for own in weights
    ]
    devices = (StageDevice("CPU:0"), StageDevice("CPU:1"))
    replica = SimpleNamespace(
        pipeline=SimpleNamespace(stages=stages), stage_devices=devices, index=0, values=None, is_single=True
    )
    return ReplicaResult.before(replica, [2, 1])


def test_weights_are_read_once_on_their_stages_devices():
    result = before()
    weights = [result.weights.of(s) for s in (0, 1)]
    assert [[float(weight) for weight in own] for own in weights] == [[1.0, 2.0], [3.0, 4.0]]
    assert [own[0].device.rpartition("/device:")[2] for own in weights] == ["CPU:0", "CPU:1"]
    assert result.counts == (2, 1) and result.gradients == [[None, None], [None, None]]


def test_a_weight_that_a_layer_assigned_has_its_new_value():
    result = before()
    result.assigned[1] = [None, tf.constant(9.0)]
    assert (float(result.weight(1, 0)), float(result.weight(1, 1))) == (3.0, 9.0)


def test_other_gradients_make_another_result():
    result = before()
    other = result.with_gradients([[1, 2], [3, 4]])
    assert other.gradients == [[1, 2], [3, 4]] and result.gradients == [[None, None], [None, None]]
    assert other.weights is result.weights
