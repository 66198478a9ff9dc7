"""What a plan will take on a cluster that is not at hand: time, bytes, and what bounds it. Without TensorFlow."""

__all__: list[str] = []
