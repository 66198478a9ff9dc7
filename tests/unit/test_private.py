"""Names the private name that a release of Keras or TensorFlow moved."""

import operator

import keras
import pytest

from kparallel.private import PRIVATE_NAMES


@pytest.mark.parametrize(("owner", "name"), PRIVATE_NAMES)
def test_private_name_exists(owner, name):
    assert hasattr(operator.attrgetter(owner.removeprefix("keras."))(keras), name), f"{owner} lost {name}"
