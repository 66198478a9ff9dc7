"""The options of `wrap` and `plan`."""

import inspect
from dataclasses import fields

import numpy as np
import pytest

import kparallel
from kparallel.errors import PlanError
from kparallel.model.options import Options, check_options


@pytest.mark.parametrize(("function", "others"), [(kparallel.plan, {"schedule": None}), (kparallel.wrap, {})])
def test_functions_have_the_options_in_order_and_with_the_same_defaults(function, others):
    """But for the schedule of `plan`, of which a forecast for a cluster tries all."""
    options = {each.name: each.default for each in fields(Options)} | others
    parameters = inspect.signature(function).parameters.values()
    keywords = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert list(keywords.items())[: len(options)] == list(options.items())


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, []),
        ({"schedule": "".join(["1f", "1b"]), "shard": "auto"}, []),
        ({"sample": np.zeros((2, 3))}, ["sample"]),
        ({"replicas": 2, "schedule": "gpipe", "stages": [["a"], ["b"]]}, ["replicas", "stages", "schedule"]),
    ],
)
def test_what_was_given_is_known(options, names):
    assert Options(**options).given() == names


@pytest.mark.parametrize(
    "options",
    [{}, {"stages": 2}, {"stages": {"CPU:0": ["a"]}}, {"schedule": lambda stages, microbatches: []}, {"shard": None}],
)
def test_valid_options_pass(options):
    check_options(Options(**options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"balance": "weight"}, "Expected balance to be one of"),
        ({"replicas": 0}, "Expected replicas to be a whole number of at least 1, received 0"),
        ({"microbatches": True}, "Expected microbatches to be a whole number"),
        ({"batch_size": 2.5}, "Expected batch_size to be a whole number"),
        ({"stages": "a"}, "Expected stages to be a number"),
        ({"stages": 0}, "Expected at least 1 stage"),
        ({"schedule": 3}, "Expected schedule to be a name"),
        ({"shard": "weight"}, "shard"),
    ],
)
def test_others_are_refused_in_words(options, words):
    with pytest.raises(PlanError, match=words):
        check_options(Options(**options))
