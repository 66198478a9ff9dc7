"""The command line and the launcher of workers."""

__all__: list[str] = []
