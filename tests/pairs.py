"""Builds a model twice from one seed: `wrap` works in place, so a test compares two models, not one with itself."""

import keras

import kparallel


def seeded(build):
    """Build a model with the weights, seeds and names that it has at every call."""
    policy = keras.config.dtype_policy()
    keras.backend.clear_session(free_memory=False)  # Counts names from the start; forgets the policy.
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(0)
    return build()


def pair(build, *arguments, **options):
    """Return what `build` makes as a plain model, and once more, wrapped with the other arguments."""
    return seeded(build), kparallel.wrap(seeded(build), *arguments, **options)
