"""Train a GPT-like character model on the text of Python's own language reference: data parallel x pipeline.

Two replicas of two stages each by default, on virtual CPU devices where there are not four GPUs. The text comes with
every Python (`pydoc_data.topics`). A unigram model, which knows only how often each character occurs, is the measure
to beat. The model is saved, loaded where kparallel cannot be imported, and goes on writing.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from pydoc_data import topics

import keras
import numpy as np
import tensorflow as tf

import kparallel

LENGTH = 64
PROMPT = "The expression "
WRITE = """
import sys
sys.modules["kparallel"] = None  # importing it fails
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
characters = list(sys.argv[2])
text = list(sys.argv[3])
numbers = np.random.default_rng(0)
for _ in range(int(sys.argv[4])):
    tokens = np.array([[characters.index(c) for c in text[-model.input_shape[1]:]]])
    row = np.zeros((1, model.input_shape[1]), "int32")
    row[:, :tokens.shape[1]] = tokens
    scores = model.predict_on_batch(row)[0, tokens.shape[1] - 1] / 0.7
    chances = np.exp(scores - scores.max())
    text.append(characters[numbers.choice(len(characters), p=chances / chances.sum())])
print("".join(text))
"""


def read_text() -> tuple[np.ndarray, list[str]]:
    """Return the text as numbers of characters, and the characters; rare ones become spaces."""
    text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    common = {c for c in set(text) if text.count(c) >= 50}
    text = "".join(c if c in common else " " for c in text)
    characters = sorted(set(text))
    index = {character: number for number, character in enumerate(characters)}
    return np.array([index[c] for c in text], "int32"), characters


def windows(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets of shape (rows, LENGTH); a target is the next character."""
    rows = (len(tokens) - 1) // LENGTH
    return tokens[: rows * LENGTH].reshape(rows, LENGTH), tokens[1 : rows * LENGTH + 1].reshape(rows, LENGTH)


def unigram_loss(train: np.ndarray, validation: np.ndarray, characters: int) -> float:
    """Return the loss, in nats for a character, of a model that knows only how often each character occurs."""
    counts = np.bincount(train, minlength=characters) + 1.0
    return float(-np.log(counts / counts.sum())[validation].mean())


def build(characters: int, blocks: int, width: int) -> keras.Model:
    """Return a decoder-only Transformer."""
    layers = keras.layers
    tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
    places = keras.ops.cumsum(keras.ops.ones_like(tokens), axis=1) - 1
    x = layers.Add(name="embedded")(
        [
            layers.Embedding(characters, width, name="token")(tokens),
            layers.Embedding(LENGTH, width, name="place")(places),
        ]
    )
    for block in range(blocks):
        y = layers.LayerNormalization(name=f"block{block}_norm_a")(x)
        y = layers.MultiHeadAttention(4, width // 4, name=f"block{block}_attention")(y, y, use_causal_mask=True)
        x = layers.Add(name=f"block{block}_add_a")([x, y])
        y = layers.LayerNormalization(name=f"block{block}_norm_b")(x)
        y = layers.Dense(4 * width, activation="gelu", name=f"block{block}_wide")(y)
        y = layers.Dense(width, name=f"block{block}_narrow")(y)
        x = layers.Add(name=f"block{block}_add_b")([x, y])
    scores = layers.Dense(characters, name="scores")(layers.LayerNormalization(name="last_norm")(x))
    return keras.Model(tokens, scores, name="charlm")


def pick_devices(number: int) -> tuple[str, ...]:
    """Return that many GPUs if the machine has them, else virtual CPU devices."""
    if len(tf.config.list_physical_devices("GPU")) >= number:
        return tuple(f"GPU:{index}" for index in range(number))
    return kparallel.virtual_devices(number)


def main() -> None:
    """Train, compare with the unigram model, save, and let plain Keras write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--replicas", type=int, default=2, help="default: %(default)s")
    add("--stages", type=int, default=2, help="default: %(default)s")
    add("--microbatches", type=int, default=4, help="for each replica's share of a batch (default: %(default)s)")
    add("--schedule", default="1f1b", help="1f1b, gpipe or interleaved (default: %(default)s)")
    add("--recompute", default="never", help="never, always or except_last (default: %(default)s)")
    add("--blocks", type=int, default=3, help="default: %(default)s")
    add("--width", type=int, default=64, help="default: %(default)s")
    add("--steps", type=int, default=300, help="default: %(default)s")
    add("--batch", type=int, default=64, help="rows of the global batch (default: %(default)s)")
    add("--save", type=Path, default=Path("charlm.keras"), metavar="FILE", help="default: %(default)s")
    options = parser.parse_args()
    devices = pick_devices(options.replicas * (options.stages if options.schedule != "interleaved" else 2))
    keras.utils.set_random_seed(0)
    text, characters = read_text()
    split = int(len(text) * 0.95)
    model = kparallel.wrap(
        build(len(characters), options.blocks, options.width),
        replicas=options.replicas,
        stages=options.stages,
        microbatches=options.microbatches,
        schedule=options.schedule,
        recompute=options.recompute,
        devices=devices,
    )
    print(model.plan)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, options.steps)
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x, y = windows(text[:split])
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=0).repeat()
    data = data.batch(options.batch, drop_remainder=True)
    validation = tuple(part[:256] for part in windows(text[split:]))
    epochs = min(3, options.steps)
    history = model.fit(data, epochs=epochs, steps_per_epoch=options.steps // epochs, validation_data=validation)
    loss = history.history["val_loss"][-1]
    unigram = unigram_loss(text[:split], text[split:], len(characters))
    with tempfile.TemporaryDirectory(dir=options.save.resolve().parent, prefix=".saving-") as folder:
        model.save(Path(folder) / options.save.name)
        os.replace(Path(folder) / options.save.name, options.save)
    command = [sys.executable, "-c", WRITE, str(options.save), "".join(characters), PROMPT, "200"]
    written = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(f"validation loss: {loss:.4f} ({math.exp(loss):.2f} characters to choose from)")
    print(f"unigram loss: {unigram:.4f} ({math.exp(unigram):.2f} characters to choose from)")
    print(f"written by {options.save}, loaded where kparallel cannot be imported:\n{written}")


if __name__ == "__main__":
    main()
