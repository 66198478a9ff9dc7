"""Plans: how a model is cut, what a step takes in time and memory, and the search for the fastest."""

__all__: list[str] = []
