"""Variables after a run that was only to be compared."""

import keras
import numpy as np
import pytest

from kparallel.compat.distribute import mirrored
from kparallel.compat.variables import copies_of, place_variable
from kparallel.ownstep.put_back import putting_back

PAIR = ("CPU:0", "CPU:1")


def test_each_copy_is_put_back_also_after_an_error():
    variable = keras.Variable(np.ones(2, "float32"))
    place_variable(variable, mirrored(PAIR), PAIR)
    one, other = copies_of(variable)
    other.assign([3.0, 4.0])  # As replicas' own statistics are.
    with pytest.raises(KeyError), putting_back([variable]):
        variable.assign([7.0, 7.0])
        assert other.numpy().tolist() == [7.0, 7.0]
        raise KeyError
    assert (one.numpy().tolist(), other.numpy().tolist()) == ([1.0, 1.0], [3.0, 4.0])
