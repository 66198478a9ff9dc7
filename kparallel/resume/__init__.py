"""Going on with a training in another process: at the very step, with the same rows."""

__all__: list[str] = []
