"""Which optimizers of the user's own update each weight by itself."""

import keras
import pytest
import tensorflow as tf

from kparallel.engine.weight_by_weight import check_weight_by_weight
from kparallel.errors import ModelError


class Momentum(keras.optimizers.Optimizer):
    """As the guide writes one, with a branch of its own for slices."""

    def build(self, variables):
        super().build(variables)
        self.kept = [self.add_variable_from_reference(each, "kept") for each in variables]

    def update_step(self, gradient, variable, learning_rate):
        kept = self.kept[self._get_variable_index(variable)]
        self.assign(kept, 0.9 * kept + gradient)
        self.assign_sub(variable, learning_rate * kept)


class Smaller(keras.optimizers.Adam):
    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient / 2, variable, learning_rate)


class Trust(Momentum):
    """Divides by the norm of all momenta."""

    def update_step(self, gradient, variable, learning_rate):
        norm = keras.ops.sqrt(sum(keras.ops.sum(each**2) for each in self.kept))
        super().update_step(gradient, variable, learning_rate / (1 + norm))


class Counting(Momentum):
    """Counts updates in a variable that belongs to no weight."""

    def build(self, variables):
        super().build(variables)
        self.updates = self.add_variable((), name="updates")

    def update_step(self, gradient, variable, learning_rate):
        tf.cond(tf.reduce_sum(gradient) > 0, lambda: self.updates.assign_add(1), lambda: self.updates.value)
        super().update_step(gradient, variable, learning_rate)


class CountingInPython(Momentum):
    updates = 0

    def update_step(self, gradient, variable, learning_rate):
        self.updates += 1
        super().update_step(gradient, variable, learning_rate)


class Sparse(Momentum):
    """Reads another weight where a gradient comes as slices alone."""

    def update_step(self, gradient, variable, learning_rate):
        if isinstance(gradient, tf.IndexedSlices):
            learning_rate = learning_rate * keras.ops.sum(self._trainable_variables[1])
            gradient = tf.convert_to_tensor(gradient)
        super().update_step(gradient, variable, learning_rate)


class Clipping(Momentum):
    def apply(self, grads, trainable_variables=None):
        super().apply([keras.ops.clip(each, -1, 1) for each in grads], trainable_variables)


class Noisy(Momentum):
    """Draws from a seed that no weight owns, and that the optimizer does not track."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seed = keras.random.SeedGenerator(1, name="draws")

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient + keras.random.normal(gradient.shape, seed=self.seed), variable, learning_rate)


class Layerwise(Momentum):
    """Has a rate for each weight, found by the weight's place."""

    def update_step(self, gradient, variable, learning_rate):
        rates = [1.0, 0.5]
        super().update_step(gradient * rates[self._get_variable_index(variable)], variable, learning_rate)


class Normed:
    """No optimizer by itself: a base beside one of Keras's."""

    def apply(self, grads, trainable_variables=None):
        norm = tf.linalg.global_norm(grads)
        super().apply([each / norm for each in grads], trainable_variables)


class NormedFirst(Normed, keras.optimizers.Adam):
    pass


class NormedOptimizer(Normed, keras.optimizers.Optimizer):
    pass


class NormedLast(keras.optimizers.Adam, NormedOptimizer):
    """Adam has no `apply` of its own, so that the other base's is called."""


def check(kind, sparse=False):
    weights = [keras.Variable([[1.0, 2.0]]), keras.Variable([3.0])]
    optimizer = kind(0.1)
    optimizer.build(weights)
    first = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([0]), tf.constant([1, 2])) if sparse else tf.ones([1, 2])
    check_weight_by_weight(optimizer, [first, tf.ones([1])], weights)


@pytest.mark.parametrize("kind", [keras.optimizers.Adam, Momentum, Smaller, Sparse, Layerwise])
def test_an_optimizer_that_updates_each_weight_by_itself_is_taken(kind):
    check(kind)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (Trust, "uses '.*kept"),
        (Counting, "uses '.*updates"),
        (CountingInPython, "changes what it keeps in Python"),
        (Clipping, "has apply of its own"),
        (Noisy, "changes 'draws.*' where it updates"),
        (NormedFirst, "has apply of its own"),
        (NormedLast, "has apply of its own"),
    ],
)
def test_one_that_needs_more_is_refused(kind, what):
    with pytest.raises(ModelError, match=f"over several workers, received {kind.__name__}, which {what}"):
        check(kind)


def test_slices_are_followed_as_they_come():
    with pytest.raises(ModelError, match="received Sparse, which uses "):
        check(Sparse, sparse=True)
