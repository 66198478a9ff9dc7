"""scikit-learn's handwritten digits as a TensorFlow Datasets builder; importing the package registers it."""

from digits_tfds.builder import SklearnDigits

__all__ = ["SklearnDigits"]
