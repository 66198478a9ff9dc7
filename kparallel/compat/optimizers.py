"""What Keras's optimizers keep private."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

__all__: list[str] = []


def own_optimizer(optimizer: Any) -> Any:
    """Return the optimizer that updates: the one inside another that scales the loss, else itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def is_keras_class(kind: type) -> bool:
    """Tell whether a class is an optimizer of Keras's, and none of the user's own."""
    return getattr(keras.optimizers, kind.__name__, None) is kind


def replaced_methods(optimizer: Any) -> list[str]:
    """Return the names of the methods that an optimizer has in the place of its class's, without those of this package.

    Example:
        >>> import keras
        >>> optimizer = keras.optimizers.SGD()
        >>> optimizer.apply = print
        >>> replaced_methods(optimizer)
        ['apply']
    """
    return [
        name
        for name, value in vars(optimizer).items()
        if callable(getattr(type(optimizer), name, None)) and _is_foreign(value)
    ]


def _is_foreign(value: Any) -> bool:
    """Tell whether a function, or what it stands in the place of while a step is traced, is none of this package's."""
    if not callable(value):
        return False
    # A method of C has None.
    return not _is_replaced(value) or _is_foreign(getattr(value, "in_place_of", None))


def step_count(optimizer: Any) -> keras.Variable:
    """Return the variable that counts an optimizer's calls; `iterations` may be that divided by another number."""
    return optimizer._iterations


def learning_rates(optimizer: Any) -> list[keras.Variable]:
    """Return the learning rates of an optimizer and of those that it holds, without those that follow a schedule."""
    rates = [getattr(each, "_learning_rate", None) for each in optimizers_in(optimizer)]
    return [rate for rate in rates if isinstance(rate, keras.Variable)]


def trained_by(optimizer: Any) -> list[Any]:
    """Return the weights that an optimizer was built for."""
    return list(optimizer._trainable_variables)


def optimizers_in(optimizer: Any) -> list[Any]:
    """Return an optimizer and all those that it holds, however nested; none for None."""
    found: dict[int, Any] = {}

    def visit(value: Any) -> None:
        if isinstance(value, dict | list | tuple):
            for part in value.values() if isinstance(value, dict) else value:
                visit(part)
        elif isinstance(value, keras.optimizers.Optimizer) and id(value) not in found:
            found[id(value)] = value
            visit(list(vars(value).values()))

    visit(optimizer)
    return list(found.values())


@contextmanager
def made_outside() -> Iterator[None]:
    """Let variables that are made inside a trace be made outside of it.

    In a trace TensorFlow makes each with a condition that asks whether it has its first value, which takes some hundred
    times as long; and it traces a function that has made variables once more.
    """

    def make(next_creator: Callable[..., Any], **arguments: Any) -> Any:
        if tf.is_symbolic_tensor(arguments.get("initial_value")):
            return next_creator(**arguments)  # Its first value is one of the trace.
        with tf.init_scope():
            return next_creator(**{**arguments, "experimental_enable_variable_lifting": False})

    with tf.variable_creator_scope(make):
        yield


@contextmanager
def only_built(optimizers: Sequence[Any]) -> Iterator[None]:
    """Let optimizers make their variables, outside of a trace, and update nothing.

    Those of a class of the user's own are left alone: they may make variables at any time.
    """
    own = [each for each in optimizers if is_keras_class(type(each))]
    for each in own:
        each.build = _building_outside(each.build)
        each._distributed_tf_update_step = lambda *_: None
    try:
        yield
    finally:
        for each in own:
            del each.build, each._distributed_tf_update_step


def _building_outside(build: Callable[..., None]) -> Callable[..., None]:
    def outside(*arguments: Any) -> None:
        with made_outside():
            build(*arguments)

    return outside


def slots_by_weight(optimizer: Any) -> list[tuple[keras.Variable, keras.Variable]]:
    """Return each slot of an optimizer with the weight that it belongs to.

    Keras's convention: slots stand in lists that are indexed as the weights are. What is kept otherwise is left out;
    it then lies on another device than its weight, and is right all the same.
    """
    weights = list(optimizer._trainable_variables)
    own = [id(variable) for variable in keras.optimizers.Optimizer.variables.fget(optimizer)]  # Not the inner one's.
    found: dict[int, tuple[keras.Variable, keras.Variable]] = {}
    for value in vars(optimizer).values():
        if not isinstance(value, list | tuple) or len(value) != len(weights):
            continue
        # weights       [w0, w1]
        # momentums     [m0, m1]      as many entries: m0 belongs to w0
        # iterations    a variable    belongs to no weight
        if list(map(id, value)) != own:  # A list of everything, which may happen to have as many entries.
            found |= {id(slot): (slot, weight) for slot, weight in zip(value, weights, strict=True) if id(slot) in own}
    return list(found.values())


def accumulated(optimizer: Any, weight: Any) -> keras.Variable | None:
    """Return what an optimizer has added up of a weight's gradients; None if it updates at each step."""
    if not optimizer.gradient_accumulation_steps:
        return None
    return optimizer._accumulated_gradients[optimizer._get_variable_index(weight)]


def python_attributes(value: Any) -> dict[str, Any]:
    """Return the attributes of an optimizer, a schedule or a constraint that decide what a trace of it does.

    Those are left out in which TensorFlow notes what to save, what Keras finds out while it is traced and keeps, and
    the methods that kparallel replaces while a step is traced.
    """
    kept = "_exclude_from_weight_decay_cache"
    return {
        name: part
        for name, part in vars(value).items()
        if not name.startswith("_self_") and name != kept and not _is_replaced(part)
    }


def _is_replaced(part: Any) -> bool:
    return callable(part) and str(getattr(part, "__module__", None)).startswith("kparallel.")
