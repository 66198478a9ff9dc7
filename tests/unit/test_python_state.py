"""What a trace of an update has found in Python, compared with what it would find now."""

import keras

from kparallel.engine.python_state import PythonState


class Halving(keras.constraints.Constraint):
    def __call__(self, weight):
        return weight / 2


def test_a_flag_that_has_changed_is_told():
    optimizer = keras.optimizers.SGD(0.1, nesterov=False)
    before = PythonState([optimizer])
    assert PythonState([optimizer]) == before and hash(PythonState([optimizer])) == hash(before)
    optimizer.nesterov = True
    assert PythonState([optimizer]) != before


def test_a_variable_counts_by_identity_and_not_by_its_value():
    optimizer = keras.optimizers.SGD(0.1)
    before = PythonState([optimizer])
    optimizer.learning_rate = 0.2  # Assigned to the variable that is there.
    assert PythonState([optimizer]) == before


def test_code_of_the_users_own_is_told_from_kerass():
    assert PythonState([keras.optimizers.Adam(), keras.constraints.NonNeg()]).is_keras_own
    assert not PythonState([Halving()]).is_keras_own
