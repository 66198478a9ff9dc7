"""What one training step does on the replicas: actions, all-reduces, state and the optimizer's update."""

__all__: list[str] = []
