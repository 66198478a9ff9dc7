"""Folders that are whole or not there, and the thread that writes them; without TensorFlow."""

__all__: list[str] = []
