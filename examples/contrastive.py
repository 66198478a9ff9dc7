"""Learn features of scikit-learn's handwritten digits without labels (SimCLR), over two replicas, and probe them.

    python examples/contrastive.py --epochs 30

Each digit is to be found again among all others of the batch by a shifted, noisy view of it. A replica sees its share
of the batch; `kparallel.gather` gives its step the rows of all. A linear classifier of the features is the judge.
"""

import argparse
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import kparallel

SIDE = 8
L = keras.layers


class SimClr(keras.Model):
    """An encoder, and a projection in which the two views of a picture come to lie side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = keras.Sequential(
            [
                keras.Input((SIDE, SIDE, 1)),
                L.Conv2D(32, 3, padding="same", activation="relu"),
                L.MaxPooling2D(),
                L.Conv2D(64, 3, padding="same", activation="relu"),
                L.Flatten(),
                L.Dense(128, "relu"),
            ]
        )
        self.projection = keras.Sequential([keras.Input((128,)), L.Dense(64, "relu"), L.Dense(32)])

    def train_step(self, data: Any) -> dict[str, Any]:
        one, two = data[0]
        with tf.GradientTape() as tape:
            ends = [tf.nn.l2_normalize(self.projection(self.encoder(view)), 1) for view in (one, two)]
            z = tf.concat([kparallel.gather(end) for end in ends], 0)  # All replicas' rows, of both views.
            count = tf.shape(z)[0] // 2
            alike = tf.matmul(z, z, transpose_b=True) / 0.2 - 1e9 * tf.eye(2 * count)
            partner = tf.concat([tf.range(count, 2 * count), tf.range(count)], 0)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(partner, alike))
        weights = self.trainable_weights
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        found = tf.reduce_mean(tf.cast(tf.argmax(alike, 1, tf.int32) == partner, loss.dtype))
        return {"loss": loss, "found": found}


def view(pictures: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return the pictures, each shifted by up to a pixel, and noisy."""
    shifts = rng.integers(-1, 2, (len(pictures), 2))
    moved = [np.roll(picture, shift, (0, 1)) for picture, shift in zip(pictures, shifts, strict=True)]
    noisy = np.stack(moved) * rng.uniform(0.7, 1.3, (len(pictures), 1, 1, 1)) + rng.normal(0, 0.1, pictures.shape)
    return noisy.astype("float32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=256, help="rows of the global batch")
    arguments = parser.parse_args()
    kparallel.virtual_devices(2)
    keras.utils.set_random_seed(0)
    digits = load_digits()
    pictures = (digits.images[..., None] / 16).astype("float32")
    seen, unseen, seen_labels, unseen_labels = train_test_split(pictures, digits.target, random_state=0)
    model = kparallel.wrap(SimClr(), replicas=2)
    model.compile(keras.optimizers.Adam(1e-3))
    rng = np.random.default_rng(0)
    for epoch in range(arguments.epochs):
        views = (view(seen, rng), view(seen, rng))
        history = model.fit(views, batch_size=arguments.batch, verbose=0).history
        print(f"epoch {epoch + 1}: loss {history['loss'][0]:.3f}, found {history['found'][0]:.3f}", flush=True)
    # Features differ in size, and a logistic regression shrinks the weights of small ones.
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    probe.fit(model.encoder(seen).numpy(), seen_labels)
    print(f"linear probe accuracy: {probe.score(model.encoder(unseen).numpy(), unseen_labels):.3f}")


if __name__ == "__main__":
    main()
