"""The generators that no layer holds go on in another process."""

import random
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from kparallel.compat.steps import default_generator, default_generator_if_made
from kparallel.resume.draw_states import draw_states, restore_draws


@pytest.fixture(autouse=True)
def no_generator():
    keras.backend.clear_session()
    yield
    keras.backend.clear_session()


def runtime(generator):
    resume = None if generator is None else generator.state.assign
    return SimpleNamespace(draws_if_made=generator, resume_draws=resume)


def test_generators_go_on_where_they_stood():
    replicas = keras.random.SeedGenerator(5)
    keras.random.normal((1,))
    states = draw_states(runtime(replicas))
    want = [keras.random.normal((3,)), keras.random.normal((3,), seed=replicas)]
    keras.backend.clear_session()
    other = keras.random.SeedGenerator(6)
    restore_draws(runtime(other), states)
    got = [keras.random.normal((3,)), keras.random.normal((3,), seed=other)]
    np.testing.assert_array_equal(got, want)


def test_a_generator_that_is_not_there_is_not_made():
    """Its seed would be drawn from Python's generator, which shuffles the rows of a `PyDataset`."""
    before = random.getstate()
    states = draw_states(runtime(None))
    restore_draws(runtime(None), states)
    restore_draws(runtime(None), {})
    assert states == {"default": None, "replicas": None} and default_generator_if_made() is None
    assert random.getstate() == before
    default_generator()
    assert draw_states(runtime(None))["default"] is not None
