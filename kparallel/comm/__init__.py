"""Collectives between replicas and between workers, and how workers join, connect and are missed."""

__all__: list[str] = []
