"""A dataset as a user would have it: colour images of several sizes, three labels, a training split only."""

import numpy as np
import tensorflow_datasets as tfds


class TinyImages(tfds.core.GeneratorBasedBuilder):
    """Forty images of noise, each tinted by its label."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "picture": tfds.features.Image(),
            "colour": tfds.features.ClassLabel(names=["red", "green", "blue"]),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("picture", "colour")
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        rng = np.random.default_rng(0)
        for row in range(40):
            picture = rng.integers(0, 100, (20 + row, 30, 3)).astype(np.uint8)
            picture[..., row % 3] += 150
            yield row, {"picture": picture, "colour": row % 3}
