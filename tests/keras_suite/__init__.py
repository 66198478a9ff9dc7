"""Keras's own tests, as they lie in its wheel, with the models that they compile wrapped."""
