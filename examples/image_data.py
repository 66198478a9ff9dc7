"""Any image classification dataset of TensorFlow Datasets, read as (image, label) pairs of one shape."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
import tensorflow_datasets as tfds

__all__ = ["Images", "load_images"]

_LARGEST = 64  # Larger images, and images of several sizes, are brought to this height and width.


@dataclass(frozen=True)
class Images:
    """A dataset for image classification.

    Args:
        train, test: Unbatched (image, label) pairs; the images are float32 from 0 to 255.
        shape: Height, width and channels of every image.
        classes: How many labels there are.
    """

    train: tf.data.Dataset
    test: tf.data.Dataset
    shape: tuple[int, int, int]
    classes: int


def load_images(name: str, data_dir: str | None) -> Images:
    """Read a dataset; its record files are written first if they are not there yet.

    TensorFlow Datasets writes into a folder named `incomplete.*` and renames it once everything is in it, so
    that an interrupted run leaves nothing half-written behind under the dataset's own name.

    Args:
        name: A name that `tfds.load` takes, such as `"mnist"` or `"emnist/digits"`.
        data_dir: Folder of the record files; default TensorFlow Datasets' own.

    Returns:
        Its training and test images. The test split is `test`, else `validation`, else a tenth of `train`.

    Raises:
        SystemExit: The dataset holds no (image, label) pairs.
    """
    # try_gcs=False: record files are read from data_dir or generated there, never fetched from Google's bucket.
    with _one_process_at_a_time(data_dir):
        found, info = tfds.load(name, data_dir=data_dir, as_supervised=False, with_info=True, try_gcs=False)
    image, label = _supervised_features(info)
    splits = _splits(set(found))
    train, test = tfds.load(name, data_dir=data_dir, split=splits, as_supervised=True, try_gcs=False)
    height, width, channels = image.shape
    size = (height, width) if height and width and max(height, width) <= _LARGEST else (_LARGEST, _LARGEST)

    def same_shape(pixels: tf.Tensor, target: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.cast(pixels, tf.float32)
        return (pixels if size == (height, width) else tf.image.resize(pixels, size)), target

    return Images(train.map(same_shape), test.map(same_shape), (*size, channels or 3), label.num_classes)


@contextmanager
def _one_process_at_a_time(data_dir: str | None) -> Iterator[None]:
    """Let one worker of a machine write the record files, while the others wait for them."""
    folder = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _supervised_features(info: tfds.core.DatasetInfo) -> tuple[tfds.features.Image, tfds.features.ClassLabel]:
    keys = info.supervised_keys
    pair = tuple(info.features[key] for key in keys) if keys and len(keys) == 2 else ()
    if not pair or not isinstance(pair[0], tfds.features.Image) or not isinstance(pair[1], tfds.features.ClassLabel):
        raise SystemExit(
            f"Expected a dataset of (image, label) pairs, received {info.full_name!r} with supervised keys {keys} of "
            f"features {dict(info.features)}. Name one for image classification, such as 'mnist'."
        )
    return pair


def _splits(names: set[str]) -> list[str]:
    for test in ("test", "validation"):
        if test in names:
            return ["train", test]
    return ["train[:90%]", "train[90%:]"]
