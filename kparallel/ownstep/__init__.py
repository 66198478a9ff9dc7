"""A training step of the user's own, over replicas and workers."""
