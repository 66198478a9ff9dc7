"""The builder. It lives outside the script that is run, since TensorFlow Datasets refuses a builder in `__main__`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

__all__: list[str] = []

_TEST_FRACTION = 0.2


class SklearnDigits(tfds.core.GeneratorBasedBuilder):
    """1,797 handwritten digits, 8 x 8 pixels, which scikit-learn carries: nothing is downloaded.

    scikit-learn's ink goes from 0 to 16; here it is spread over 0 to 255, one value for each level. The source
    has no split of its own: a fifth of each digit's images, drawn with a fixed seed, is the test split.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits, 8 x 8 pixels, from scikit-learn.",
            homepage="https://doi.org/10.24432/C50P49",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        ink, labels = load_digits(return_X_y=True)
        images = np.round(ink * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
        train, test = train_test_split(
            np.arange(len(labels)), test_size=_TEST_FRACTION, random_state=0, stratify=labels
        )
        return {
            "train": self._generate_examples(images, labels, train),
            "test": self._generate_examples(images, labels, test),
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray, rows: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for row in rows.tolist():
            yield row, {"image": images[row], "label": int(labels[row])}
