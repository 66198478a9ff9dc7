"""Train two adversaries on scikit-learn's handwritten digits, on one and on two replicas, and paint both side by side.

    python examples/gan.py --epochs 40 --folder pictures

Each epoch writes a picture: above what one replica has learned to paint, below what two have. The step is one's own,
with two optimizers, as Keras's guide writes it; nothing in it knows of replicas.
"""

import argparse
from pathlib import Path
from typing import Any

import keras
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import kparallel

SIDE, LATENT = 8, 16
L = keras.layers


class Adversaries(keras.Model):
    """A painter, and a judge that tells its pictures from real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.painter = keras.Sequential(
            [keras.Input((LATENT,)), L.Dense(128, "relu"), L.Dense(128, "relu"), L.Dense(SIDE * SIDE, "sigmoid")]
        )
        self.judge = keras.Sequential(
            [keras.Input((SIDE * SIDE,)), L.Dense(128, "leaky_relu"), L.Dropout(0.2), L.Dense(1)]
        )
        self.seed = keras.random.SeedGenerator(0)

    def compile(self, judge_optimizer: Any, painter_optimizer: Any) -> None:
        super().compile()
        self.judge_optimizer, self.painter_optimizer = judge_optimizer, painter_optimizer
        self.entropy = keras.losses.BinaryCrossentropy(from_logits=True)
        self.judge_loss = keras.metrics.Mean(name="judge_loss")
        self.painter_loss = keras.metrics.Mean(name="painter_loss")

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.judge_loss, self.painter_loss]

    def painted(self, like: tf.Tensor) -> tf.Tensor:
        """Paint as many pictures as there are in a batch."""
        return self.painter(keras.random.normal((tf.shape(like)[0], LATENT), seed=self.seed), training=True)

    def train_step(self, real: tf.Tensor) -> dict[str, Any]:
        ones, zeros = tf.ones_like(real[:, :1]), tf.zeros_like(real[:, :1])
        with tf.GradientTape() as tape:
            scores = [self.judge(pictures, training=True) for pictures in (real, self.painted(like=real))]
            judged = self.entropy(0.9 * ones, scores[0]) + self.entropy(zeros, scores[1])
        weights = self.judge.trainable_weights
        self.judge_optimizer.apply(tape.gradient(judged, weights), weights)
        with tf.GradientTape() as tape:
            fooled = self.entropy(ones, self.judge(self.painted(real), training=True))
        weights = self.painter.trainable_weights
        self.painter_optimizer.apply(tape.gradient(fooled, weights), weights)
        self.judge_loss.update_state(judged)
        self.painter_loss.update_state(fooled)
        return {metric.name: metric.result() for metric in self.metrics}


def build(replicas: int) -> keras.Model:
    """Return the adversaries, on some replicas."""
    keras.utils.set_random_seed(0)
    model = kparallel.wrap(Adversaries(), replicas=replicas)
    model.compile(keras.optimizers.Adam(2e-4, beta_1=0.5), keras.optimizers.Adam(5e-4, beta_1=0.5))
    return model


def paint(models: dict[str, keras.Model], path: Path) -> None:
    """Write a picture of what each model paints of the same noise."""
    noise = np.random.default_rng(0).normal(size=(10, LATENT)).astype("float32")
    figure, rows = plt.subplots(len(models), len(noise), figsize=(len(noise), 1.2 * len(models)))
    for axes, (name, model) in zip(rows, models.items(), strict=True):
        axes[0].set_title(name, fontsize=8, loc="left")
        for axis, picture in zip(axes, model.painter(noise).numpy(), strict=True):
            axis.imshow(picture.reshape(SIDE, SIDE), cmap="gray", vmin=0, vmax=1)
            axis.axis("off")
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=64, help="rows of the global batch")
    parser.add_argument("--folder", type=Path, default=Path("pictures"))
    arguments = parser.parse_args()
    matplotlib.use("agg")
    kparallel.virtual_devices(2)
    arguments.folder.mkdir(exist_ok=True)
    pictures = (load_digits().data / 16).astype("float32")
    models = {"one replica": build(1), "two replicas": build(2)}
    for epoch in range(arguments.epochs):
        for name, model in models.items():
            history = model.fit(pictures, batch_size=arguments.batch, verbose=0).history
            losses = ", ".join(f"{key} {values[0]:.3f}" for key, values in history.items())
            print(f"epoch {epoch + 1}, {name}: {losses}", flush=True)
        paint(models, arguments.folder / f"epoch_{epoch + 1:03}.png")


if __name__ == "__main__":
    main()
