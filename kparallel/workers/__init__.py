"""What the workers of a cluster do alike: the same batches, callbacks and arguments, with checks that they do."""

__all__: list[str] = []
