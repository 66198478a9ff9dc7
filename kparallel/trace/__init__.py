"""What a recorded training step says about time: who worked, who waited, and for what. Knows no TensorFlow."""

__all__: list[str] = []
