"""What losses are of the rows of a batch: means, sums or neither, with their numerators and statistics."""

__all__: list[str] = []
