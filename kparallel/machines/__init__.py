"""One program over several machines: worker 0 runs the script, all others serve their devices to it."""

__all__: list[str] = []
