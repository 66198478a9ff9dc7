"""Ratios of kparallel to stock Keras and to PyTorch's own engines, measured side by side in one run."""

__all__: list[str] = []
