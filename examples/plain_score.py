"""Score a saved model with plain Keras: in this process, importing kparallel fails.

The test images come from the record files alone; the code that wrote them is not needed.
"""

import argparse
import sys

import keras

from image_data import load_images

sys.modules["kparallel"] = None  # type: ignore[assignment]


def main() -> None:
    """Load a model file and print its test accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="the .keras file")
    parser.add_argument("--dataset", default="sklearn_digits")
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    model = keras.models.load_model(options.file)
    images = load_images(options.dataset, options.data_dir)
    scores = model.evaluate(images.test.batch(128), verbose=0, return_dict=True)
    print(f"{scores['accuracy']:.6f}")


if __name__ == "__main__":
    main()
