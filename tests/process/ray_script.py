"""Trains in Ray Train on two workers of this machine, and holds the result against one device.

Usage: python ray_script.py FOLDER
"""

import os
import sys
from pathlib import Path

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}

import keras
import numpy as np
import ray
import ray.train
from ray.train.tensorflow import TensorflowTrainer

FLOAT64 = {"dtype": "float64"}


def train(wrap, callbacks=()):
    """Train a model that uses `tf.keras`, as a script of Ray's does."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(22, 3))
    hidden = tf.keras.layers.Dense(4, activation="tanh", **FLOAT64)
    inputs = tf.keras.Input((3,), **FLOAT64)
    model = wrap(tf.keras.Sequential([inputs, hidden, tf.keras.layers.Dense(1, **FLOAT64)]))
    model.compile(tf.keras.optimizers.Adam(0.1, clipnorm=1.0), "mse")
    model.fit(x, x[:, :1], batch_size=5, epochs=2, shuffle=False, verbose=0, callbacks=list(callbacks))
    return model


def train_loop(config):
    import kparallel

    assert os.environ["TF_USE_LEGACY_KERAS"] == "1", "Ray sets it no more"
    kparallel.init()
    assert "TF_USE_LEGACY_KERAS" not in os.environ
    model = train(kparallel.wrap, [kparallel.callbacks.RayReport()])
    assert model.plan.replicas == ray.train.get_context().get_world_size() == 2


def main(folder):
    ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", _temp_dir=str(folder))
    run = ray.train.RunConfig(storage_path=str(folder / "results"))
    scaling = ray.train.ScalingConfig(num_workers=2)
    result = TensorflowTrainer(train_loop, scaling_config=scaling, run_config=run).fit()
    plain = train(lambda model: model)
    with result.checkpoint.as_directory() as checkpoint:
        trained = keras.models.load_model(Path(checkpoint) / "model.keras")
    pairs = [*zip(trained.variables, plain.variables, strict=True)]
    pairs += zip(trained.optimizer.variables, plain.optimizer.variables, strict=True)
    difference = max(float(np.abs(np.asarray(one) - np.asarray(other)).max()) for one, other in pairs)
    print("trained", type(trained).__module__, "off by", difference, "metrics", sorted(result.metrics)[:1])
    sys.exit(not (difference < 1e-9 and abs(result.metrics["loss"] - plain.history.history["loss"][-1]) < 1e-6))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
