"""What a step really does, told by layers that write down when they run: order, lanes and recomputation."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import kparallel
from kparallel.schedule import gpipe, one_f_one_b

SECONDS = 0.002


class Recorded(keras.layers.Layer):
    """Multiplies by a weight; writes down (stage, kind, microbatch, start, end) of each pass.

    The backward pass reads what the forward pass gave, as most layers' do, and the microbatch stands in the input.
    """

    def __init__(self, write, **kwargs):
        super().__init__(**kwargs)
        self.write = write

    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        def recorded(kind, value, forward):
            def run(value, forward):
                start = time.perf_counter()
                time.sleep(SECONDS)
                self.write((int(self.name[-1]), kind, int(forward[0, 0]), start, time.perf_counter()))
                return value

            result = tf.numpy_function(run, [value, forward], value.dtype, stateful=False)
            result.set_shape(value.shape)
            return result

        @tf.custom_gradient
        def work(value):
            result = recorded("F", value, value)
            return result, lambda upstream: recorded("B", upstream, result)

        return work(x * self.scale)


def recorded_step(stages, microbatches, **options):
    """Return what one step writes down, in order of the starts."""
    log = []

    def build():
        return keras.Sequential(
            [keras.Input((1,)), *(Recorded(log.append, name=f"stage{index}") for index in range(stages))]
        )

    model = kparallel.wrap(build, replicas=1, stages=stages, microbatches=microbatches, check="off", **options)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x = np.arange(microbatches, dtype="float32")[:, None]
    model.fit(x, x + 1, batch_size=microbatches, shuffle=False, verbose=0)
    return sorted(log, key=lambda entry: entry[3])


# GPipe would come out in this order by chance if nothing enforced it; 1F1B would not.
@pytest.mark.parametrize("schedule", [gpipe, one_f_one_b])
def test_a_lane_runs_its_actions_one_after_another_in_the_schedules_order(schedule):
    log = recorded_step(3, 4, schedule=schedule)
    for stage, program in enumerate(schedule(3, 4)):
        own = [entry for entry in log if entry[0] == stage]
        assert [f"{s}{kind}{m}" for s, kind, m, _, _ in own] == [str(action) for action in program]
        assert all(before[4] <= after[3] for before, after in zip(own, own[1:], strict=False)), "two at once"


def test_recomputed_passes_run_just_before_their_backward_passes():
    log = recorded_step(2, 3, recompute="always")
    for stage in range(2):
        own = [f"{kind}{m}" for s, kind, m, _, _ in log if s == stage]
        assert len(own) == 9, "three forward passes, three again, three backward"
        for m in range(3):
            assert own[own.index(f"B{m}") - 1] == f"F{m}"
