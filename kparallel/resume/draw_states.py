"""The states of the generators from which Keras's random functions draw that are given no seed.

A step of the user's own may draw from them. No layer holds them, so that no file of the model does.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kparallel.compat.steps import default_generator, default_generator_if_made

__all__: list[str] = []


def draw_states(runtime: Any) -> dict[str, list[int] | None]:
    """Return the states, which JSON can hold; None for a generator that nothing has drawn from.

    Args:
        runtime: Of the wrapped model.
    """
    # default      Keras's own, on one replica
    # replicas     the one that takes its place on several, equal on all
    made = {"default": default_generator_if_made(), "replicas": runtime.draws_if_made}
    return {name: None if generator is None else _state(generator) for name, generator in made.items()}


def restore_draws(runtime: Any, states: Mapping[str, list[int] | None]) -> None:
    """Let the generators go on from what `draw_states` returned in another process.

    In a cluster the chief does so when it has read the file, the others when they have been told, each by itself.
    """
    if states.get("default") is not None:
        default_generator().state.assign(np.array(states["default"]))
    if states.get("replicas") is not None:
        runtime.resume_draws(np.array(states["replicas"]))


def _state(generator: keras.random.SeedGenerator) -> list[int]:
    values: list[int] = np.asarray(keras.ops.convert_to_numpy(generator.state)).tolist()
    return values
