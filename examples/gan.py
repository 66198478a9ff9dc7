"""Train two adversaries on scikit-learn's handwritten digits, on one and on two replicas, and paint both side by side.

    python examples/gan.py --epochs 50 --folder pictures

Both are told which digit is meant. Each epoch writes a picture, a column for each digit: above what one replica has
learned to paint, below what two have. A classifier of real digits tells how many of the painted ones it takes for what
they are meant to be. The step is one's own, with two optimizers, as Keras's guide writes it; nothing in it knows of
replicas.
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
from sklearn.linear_model import LogisticRegression

import kparallel

SIDE, LATENT, DIGITS = 8, 16, 10
L = keras.layers


class Adversaries(keras.Model):
    """A painter, and a judge that tells its pictures from real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.painter = keras.Sequential(
            [
                keras.Input((LATENT + DIGITS,)),
                L.Dense(128, "relu"),
                L.Dense(128, "relu"),
                L.Dense(SIDE * SIDE, "sigmoid"),
            ]
        )
        # Noise on what the judge sees keeps it from learning the few pictures there are by heart.
        self.judge = keras.Sequential(
            [
                keras.Input((SIDE * SIDE + DIGITS,)),
                L.GaussianNoise(0.3),
                L.Dense(128, "leaky_relu"),
                L.Dropout(0.2),
                L.Dense(128, "leaky_relu"),
                L.Dense(1),
            ]
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

    def painted(self, digits: tf.Tensor) -> tf.Tensor:
        """Paint a picture of each digit."""
        noise = keras.random.normal((tf.shape(digits)[0], LATENT), seed=self.seed)
        return self.painter(tf.concat([noise, digits], 1), training=True)

    def score(self, pictures: tf.Tensor, digits: tf.Tensor) -> tf.Tensor:
        """Judge whether pictures are real ones of the digits."""
        return self.judge(tf.concat([pictures, digits], 1), training=True)

    def train_step(self, data: Any) -> dict[str, Any]:
        real, labels = data
        digits = tf.one_hot(labels, DIGITS)
        ones, zeros = tf.ones_like(real[:, :1]), tf.zeros_like(real[:, :1])
        with tf.GradientTape() as tape:
            judged = self.entropy(0.9 * ones, self.score(real, digits))
            judged += self.entropy(zeros, self.score(self.painted(digits), digits))
        weights = self.judge.trainable_weights
        self.judge_optimizer.apply(tape.gradient(judged, weights), weights)
        with tf.GradientTape() as tape:
            fooled = self.entropy(ones, self.score(self.painted(digits), digits))
        weights = self.painter.trainable_weights
        self.painter_optimizer.apply(tape.gradient(fooled, weights), weights)
        self.judge_loss.update_state(judged)
        self.painter_loss.update_state(fooled)
        return {metric.name: metric.result() for metric in self.metrics}


def build(replicas: int) -> keras.Model:
    """Return the adversaries, on some replicas."""
    keras.utils.set_random_seed(0)
    model = kparallel.wrap(Adversaries(), replicas=replicas)
    model.compile(keras.optimizers.Adam(3e-3, beta_1=0.5), keras.optimizers.Adam(2e-3, beta_1=0.5))
    return model


def pictures_of(model: keras.Model, digits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return what a model paints of some digits, from the same noise at each call."""
    noise = np.random.default_rng(0).normal(size=(len(digits), LATENT))
    painted: np.ndarray[Any, Any] = model.painter(np.concatenate([noise, np.eye(DIGITS)[digits]], 1)).numpy()
    return painted


def paint(models: dict[str, keras.Model], path: Path) -> None:
    """Write a picture of what each model paints of each digit."""
    figure, rows = plt.subplots(len(models), DIGITS, figsize=(DIGITS, 1.2 * len(models)))
    for axes, (name, model) in zip(rows, models.items(), strict=True):
        axes[0].set_title(name, fontsize=8, loc="left")
        for axis, picture in zip(axes, pictures_of(model, np.arange(DIGITS)), strict=True):
            axis.imshow(picture.reshape(SIDE, SIDE), cmap="gray", vmin=0, vmax=1)
            axis.axis("off")
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64, help="rows of the global batch")
    parser.add_argument("--folder", type=Path, default=Path("pictures"))
    arguments = parser.parse_args()
    matplotlib.use("agg")
    kparallel.virtual_devices(2)
    arguments.folder.mkdir(exist_ok=True)
    digits = load_digits()
    pictures, labels = (digits.data / 16).astype("float32"), digits.target
    classifier = LogisticRegression(max_iter=1000).fit(pictures, labels)
    meant = np.arange(500) % DIGITS
    models = {"one replica": build(1), "two replicas": build(2)}
    for epoch in range(arguments.epochs):
        for name, model in models.items():
            history = model.fit(pictures, labels, batch_size=arguments.batch, verbose=0).history
            losses = ", ".join(f"{key} {values[0]:.3f}" for key, values in history.items())
            recognised = classifier.score(pictures_of(model, meant), meant)
            print(f"epoch {epoch + 1}, {name}: {losses}, recognised {recognised:.2f}", flush=True)
        paint(models, arguments.folder / f"epoch_{epoch + 1:03}.png")


if __name__ == "__main__":
    main()
