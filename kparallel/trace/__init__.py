"""Analyzes a recorded training step: where the time goes, and what devices wait for. Does not import TensorFlow."""

__all__: list[str] = []
