"""Train a small convolutional network on real images over two replicas, save it, and score the file with plain Keras.

The default dataset is scikit-learn's 1,797 handwritten digits, which need no network. `--dataset` takes any image
classification dataset of TensorFlow Datasets, such as `mnist`; TensorFlow Datasets downloads those it has not got.
"""

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

import digits_tfds  # noqa: F401  registers `sklearn_digits`
import kparallel
from image_data import Images, load_images

PLAIN_SCORE = Path(__file__).with_name("plain_score.py")


def build(shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Return a small convolutional network.

    Args:
        shape: Height, width and channels of an image; pixels go from 0 to 255.
        classes: How many labels there are.
    """
    layers = [keras.Input(shape), keras.layers.Rescaling(1 / 255)]
    layers.append(keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="conv"))
    side = min(shape[:2])
    while side > 8:  # Halve large images until about 8 x 8 places are left.
        layers += [keras.layers.MaxPooling2D(), keras.layers.Conv2D(32, 3, padding="same", activation="relu")]
        side //= 2
    layers += [
        keras.layers.Conv2D(64, 3, padding="same", activation="relu", name="last_conv"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(64, activation="relu", name="hidden"),
        keras.layers.Dense(classes, activation="softmax", name="label"),
    ]
    return keras.Sequential(layers, name="convnet")


def pick_devices(replicas: int) -> tuple[str, ...] | None:
    """Return that many GPUs if the machine has them, else virtual CPU devices; in a cluster all of this worker's."""
    if "TF_CONFIG" in os.environ:
        return None
    if len(tf.config.list_physical_devices("GPU")) >= replicas:
        return tuple(f"GPU:{index}" for index in range(replicas))
    return kparallel.virtual_devices(replicas)


def train(images: Images, devices: Sequence[str] | None, epochs: int, batch: int) -> tuple[keras.Model, float]:
    """Wrap, compile and fit; return the wrapped model and its test accuracy."""
    model = kparallel.wrap(build(images.shape, images.classes), devices=devices)
    print(model.plan)
    data = images.train.cache().shuffle(10_000, seed=0).batch(batch)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, epochs * int(data.cardinality()))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    test = images.test.cache().batch(batch)
    model.fit(data, epochs=epochs, validation_data=test)
    return model, model.evaluate(test, verbose=0, return_dict=True)["accuracy"]


def save(model: keras.Model, path: Path) -> None:
    """Write the model file under another name first, so that an interrupted run leaves no half-written one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as folder:
        model.save(Path(folder) / path.name)
        os.replace(Path(folder) / path.name, path)


def is_chief(model: keras.Model) -> bool:
    """Tell whether this process writes the files: it does, unless it is a later worker of a cluster."""
    resolver = model.distribute_strategy.cluster_resolver
    return resolver is None or resolver.task_id == 0


def score_with_plain_keras(path: Path, dataset: str, data_dir: str | None) -> float:
    """Return the test accuracy of the file, found by a process in which importing kparallel fails."""
    command = [sys.executable, str(PLAIN_SCORE), str(path), "--dataset", dataset]
    command += ["--data-dir", data_dir] if data_dir else []
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{run.stderr}")
    return float(run.stdout.split()[-1])


def main() -> None:
    """Train, save, load without kparallel, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--dataset", default="sklearn_digits", metavar="NAME", help="a name that tfds.load takes (default: %(default)s)"
    )
    add("--imports", metavar="MODULE", help="a module to import first, if it defines the dataset's builder")
    add("--data-dir", metavar="DIR", help="folder of the record files (default: TensorFlow Datasets' own)")
    add("--epochs", type=int, default=20, help="default: %(default)s")
    add("--replicas", type=int, default=2, help="default: %(default)s")
    add("--batch", type=int, default=32, help="rows of the global batch (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the weights and of dropout (default: %(default)s)")
    add("--save", type=Path, metavar="FILE", help="the model file to write (default: NAME.keras)")
    options = parser.parse_args()
    if options.imports:
        importlib.import_module(options.imports)
    devices = pick_devices(options.replicas)
    keras.utils.set_random_seed(options.seed)
    images = load_images(options.dataset, options.data_dir)
    model, accuracy = train(images, devices, options.epochs, options.batch)
    if not is_chief(model):
        return
    path = options.save or Path(options.dataset.split(":")[0].replace("/", "_") + ".keras")
    save(model, path)
    plain_accuracy = score_with_plain_keras(path, options.dataset, options.data_dir)
    print(f"test accuracy: {accuracy:.4f}")
    print(f"test accuracy of {path}, loaded where kparallel cannot be imported: {plain_accuracy:.4f}")
    if abs(accuracy - plain_accuracy) > 1e-4:
        raise SystemExit("The saved model does not score as the trained one.")


if __name__ == "__main__":
    main()
