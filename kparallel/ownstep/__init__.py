"""A training step of the user's own, over replicas and workers; whether code of the user's own may be divided."""
