"""Gradients of many microbatches are added up one by one: a device holds a sum for each weight, and not all of them."""

import subprocess
import sys

from tests.processes import ENVIRONMENT

SCRIPT = """
import keras, numpy as np, tensorflow as tf
import kparallel

kparallel.virtual_devices(2)
layers = [keras.layers.Dense(512, activation="relu") for _ in range(4)]
model = kparallel.wrap(keras.Sequential([keras.Input((512,)), *layers]), stages=2, microbatches=8)
model.compile("sgd", "mse")
x = np.ones((16, 512), "float32")
model.fit(x, x, batch_size=16, verbose=0)
before = tf.config.experimental.get_memory_info("CPU:0")["current"]
tf.config.experimental.reset_memory_stats("CPU:0")
model.fit(x, x, batch_size=16, verbose=0)
print((tf.config.experimental.get_memory_info("CPU:0")["peak"] - before) / (4 * model.count_params()))
"""


def test_the_gradients_of_a_step_take_little_more_than_the_weights():
    # The counters are those of the allocator that TensorFlow takes for CPUs with this variable.
    environment = ENVIRONMENT | {"TF_CPU_ALLOCATOR_USE_BFC": "true"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-4000:]
    # The sums, and of one layer on each device the gradient that is added; 8 without the order of the sums.
    assert float(done.stdout) <= 2.5
