"""Batches, the shares of replicas and workers in them, and the order of rows."""

__all__: list[str] = []
