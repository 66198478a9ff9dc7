"""Metrics over all replicas."""

__all__: list[str] = []
