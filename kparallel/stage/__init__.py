"""Stages: a model's graph cut into parts that are pure functions, with their costs."""

__all__: list[str] = []
