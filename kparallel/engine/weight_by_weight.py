"""Tells whether an optimizer of the user's own updates each weight by itself, so that workers may share it out.

A worker runs the update of its own weights alone. Keras's optimizers compute each weight's from its gradient, the
weight and its slots. One of the user's own does so if all that it has of its own is `update_step`, which a trace shows
to touch nothing else.
"""

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.copies import as_ordinary
from kparallel.compat.functions import traced
from kparallel.compat.optimizers import is_keras_class, slots_by_weight, trained_by
from kparallel.compat.variables import copies_of, placed_value, resource_name
from kparallel.engine.python_state import PythonState
from kparallel.engine.shared_writes import written_handles
from kparallel.errors import ModelError

__all__: list[str] = []

# What a class may have of its own, since it is not about several weights at once.
_MAY_OVERRIDE = {"build", "update_step", "get_config", "from_config"}


def check_weight_by_weight(
    optimizer: Any, gradients: list[Any], variables: Iterable[keras.Variable], shard: str = "optimizer"
) -> None:
    """Check that an optimizer updates each weight by itself. Call it in a trace.

    Args:
        optimizer: Built; perhaps of a class of the user's own.
        gradients: Of each variable; None where there is none.
        variables: Weights, some of which it trains.
        shard: What the workers share out: `"optimizer"` (default) or `"weights"`, of which it is too.

    Raises:
        ModelError: It does not, or nobody can tell.
    """
    if is_keras_class(type(optimizer)):
        return
    _check_methods(type(optimizer), shard)
    pairs = slots_by_weight(optimizer)
    trained = set(map(id, trained_by(optimizer)))
    kept = trained | {id(slot) for slot, _ in pairs}
    everything = list({id(each): each for each in [*trained_by(optimizer), *optimizer.variables]}.values())
    for gradient, variable in zip(gradients, variables, strict=True):
        if gradient is None or id(variable) not in trained:
            continue
        own = {id(variable), *(id(slot) for slot, weight in pairs if weight is variable)}
        before = PythonState([optimizer])
        touched, written, unknown = _touched(optimizer, gradient, variable, everything)
        if PythonState([optimizer]) != before:
            raise _refused(optimizer, shard, "changes what it keeps in Python")
        changed = set(map(id, written))
        foreign = [each for each in touched if id(each) not in own and (id(each) in kept or id(each) in changed)]
        if foreign:
            raise _refused(optimizer, shard, f"uses {foreign[0].name!r} where it updates {variable.path!r}")
        if unknown:  # As the state of a seed: on one device it goes from weight to weight.
            raise _refused(optimizer, shard, f"changes {unknown[0]!r} where it updates {variable.path!r}")


def _touched(
    optimizer: Any, gradient: Any, variable: keras.Variable, everything: list[keras.Variable]
) -> tuple[list[keras.Variable], list[keras.Variable], list[str]]:
    """Return the variables that the update of one weight touches, those that it writes, and the names of others."""
    spec = tf.type_spec_from_value(gradient)
    update = traced(lambda own, rate: optimizer.update_step(own, variable, rate))
    with tf.init_scope(), as_ordinary(everything, traces_alone=True):
        graph = update.get_concrete_function(spec, tf.TensorSpec((), keras.config.floatx())).graph
        handles = {
            id(copy.handle): each
            for each in everything
            for copy in ([each.value] if placed_value(each) is None else copies_of(each))
        }
    touched = [handles[id(handle)] for handle in graph.external_captures if id(handle) in handles]
    handles_written = written_handles(graph)
    written = [handles[id(handle)] for handle in handles_written if id(handle) in handles]
    return touched, written, [resource_name(handle) for handle in handles_written if id(handle) not in handles]


def _check_methods(kind: type, shard: str) -> None:
    """Refuse a class that has more of its own in the place of Keras's than the update of one weight."""
    # With several bases, one of the user's own may come before Keras's, or between them, and derive from none.
    below = set(keras.optimizers.Optimizer.__mro__)
    base = next(each for each in kind.__mro__ if is_keras_class(each))
    for each in kind.__mro__:
        if is_keras_class(each) or each in below:
            continue
        for name in vars(each):
            if name not in _MAY_OVERRIDE and not name.startswith("__") and hasattr(base, name):
                raise _refused(kind, shard, f"has {name} of its own")


def _refused(optimizer: Any, shard: str, what: str) -> ModelError:
    kind = optimizer if isinstance(optimizer, type) else type(optimizer)
    return ModelError(
        f"Expected an optimizer that updates each weight by its gradient, itself and its slots with shard={shard!r} "
        f"over several workers, received {kind.__name__}, which {what}: a worker has the slots of its own weights "
        "alone. Keep slots in a list with one for each weight, as by add_variable_from_reference in build, or say "
        "shard=None."
    )
