"""From the user's model to a `ParallelModel`: checks, the plan, the move of its variables, and Keras's hooks."""

__all__: list[str] = []
