"""Leads the updates of Keras's optimizers: which weights they know, what they update through, and how they write."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.optimizers import is_keras_class, optimizers_in, own_optimizer, slots_by_weight

__all__: list[str] = []


@contextmanager
def updates_through(
    optimizer: Any, run: Callable[[Callable[..., None], list[tuple[Any, Any]], Any], None]
) -> Iterator[None]:
    """Let a function carry out an optimizer's update step.

    Args:
        optimizer: It, or the one inside it, calls `run` in place of its own loop over the variables.
        run: Takes Keras's own loop as a function of (gradient, variable) pairs and the learning rate, then all pairs
            and the learning rate.
    """
    own = own_optimizer(optimizer)
    loop = own._distributed_tf_update_step

    def replaced(distribution: Any, pairs: Any, rate: Any) -> None:
        run(lambda some, value: loop(distribution, some, value), list(pairs), rate)

    own._distributed_tf_update_step = replaced
    try:
        yield
    finally:
        del own._distributed_tf_update_step


@contextmanager
def updating_copies(optimizers: Sequence[Any]) -> Iterator[None]:
    """Let optimizers update this replica's copies, with gradients as they are: the step has summed them.

    Enter it in a replica's context. Outside a step an optimizer is as the user made it.
    """
    strategies = [optimizer._distribution_strategy for optimizer in optimizers]
    for optimizer in optimizers:
        optimizer._all_reduce_sum_gradients = lambda pairs: pairs
        optimizer._distribution_strategy = tf.distribute.get_strategy()
    try:
        yield
    finally:
        for optimizer, strategy in zip(optimizers, strategies, strict=True):
            del optimizer._all_reduce_sum_gradients
            optimizer._distribution_strategy = strategy


@contextmanager
def writing_anew(optimizer: Any, weights: Sequence[keras.Variable]) -> Iterator[None]:
    """Let Keras's optimizers write the new values of some weights, in the place of subtracting from the old ones.

    Enter it while each of them is an ordinary variable. TensorFlow subtracts in place only if nobody else has the
    variable's memory, and copies all of it before otherwise. The new value takes the memory of what is subtracted.
    """
    chosen = {id(weight._value) for weight in weights}

    def replacing(own: Any) -> Callable[[Any, Any], None]:
        subtract = own.assign_sub

        def assign_sub(variable: Any, value: Any) -> None:
            held = variable._value if isinstance(variable, keras.Variable) else variable
            if id(held) in chosen and not isinstance(value, tf.IndexedSlices):
                held.assign(held - tf.cast(value, held.dtype))
            else:
                subtract(variable, value)

        return assign_sub

    own = [each for each in optimizers_in(optimizer) if is_keras_class(type(each)) and "assign_sub" not in vars(each)]
    for each in own:
        each.assign_sub = replacing(each)
    try:
        yield
    finally:
        for each in own:
            del each.assign_sub


@contextmanager
def training_only(optimizers: Sequence[Any], is_chosen: Callable[[Any], bool]) -> Iterator[None]:
    """Let optimizers know some of their weights alone, and the slots of these, as if they were built for them.

    An optimizer of the user's own knows all of them while it updates one, so that each has its own number.

    Args:
        optimizers: Built.
        is_chosen: Tells whether a weight stays.
    """
    changes = [_of_some_weights(optimizer, is_chosen) for optimizer in optimizers]
    before = [
        {name: vars(optimizer)[name] for name in change} for optimizer, change in zip(optimizers, changes, strict=True)
    ]
    own = [pair for pair in zip(optimizers, before, strict=True) if not is_keras_class(type(pair[0]))]
    for optimizer, change in zip(optimizers, changes, strict=True):
        vars(optimizer).update(change)
    for optimizer, attributes in own:
        optimizer.update_step = _knowing(optimizer, attributes)
    try:
        yield
    finally:
        for optimizer, _ in own:
            del optimizer.update_step
        for optimizer, attributes in zip(optimizers, before, strict=True):
            vars(optimizer).update(attributes)


def _knowing(optimizer: Any, attributes: dict[str, Any]) -> Callable[..., None]:
    """Return the update of one weight by an optimizer that has other attributes while it runs."""
    update = optimizer.update_step

    def knowing(*arguments: Any) -> None:
        before = {name: vars(optimizer)[name] for name in attributes}
        vars(optimizer).update(attributes)
        try:
            update(*arguments)
        finally:
            vars(optimizer).update(before)

    return knowing


def _of_some_weights(optimizer: Any, is_chosen: Callable[[Any], bool]) -> dict[str, Any]:
    """Return the attributes of an optimizer that knows some of its weights alone."""
    weights = list(optimizer._trainable_variables)
    places = [place for place, weight in enumerate(weights) if is_chosen(weight)]
    left_out = {id(slot) for slot, weight in slots_by_weight(optimizer) if not is_chosen(weight)}
    # Keras finds the slots of a weight by its place in lists that are as long as the list of weights.
    changed: dict[str, Any] = {
        name: [value[place] for place in places]
        for name, value in vars(optimizer).items()
        if isinstance(value, list | tuple) and len(value) == len(weights) and name != "_variables"
        if all(each is None or isinstance(each, keras.Variable) for each in value)
    }
    changed["_variables"] = [each for each in optimizer._variables if id(each) not in left_out]
    keys = [optimizer._var_key(weights[place]) for place in places]
    changed["_trainable_variables_indices"] = {key: place for place, key in enumerate(keys)}
    return changed


@contextmanager
def as_with_all_gradients(optimizer: Any, finite: Any, rests: dict[int, Any]) -> Iterator[None]:
    """Let an optimizer that is given a part of the gradients do what it would do if it were given all.

    Two things depend on all gradients together: whether they are finite, which a loss scale asks, and their norm.

    Args:
        optimizer: It may hold others.
        finite: A tensor that tells whether all gradients are finite; None where nothing asks.
        rests: By the id of an optimizer, the norm of what it is not given, as Keras would clip it.
    """
    clipping = [each for each in optimizers_in(optimizer) if id(each) in rests]
    for each in clipping:
        each._clip_gradients = _with_rest(each._clip_gradients, rests[id(each)])
    if finite is not None:
        optimizer.check_finite = lambda gradients: finite
    try:
        yield
    finally:
        for each in clipping:
            del each._clip_gradients
        if finite is not None:
            del optimizer.check_finite


def _with_rest(clip: Callable[[list[Any]], list[Any]], rest: Any) -> Callable[[list[Any]], list[Any]]:
    """Return a function that clips gradients as if there were others too, of which it knows the norm."""

    def clipped(gradients: list[Any]) -> list[Any]:
        # One more gradient, of one element, which is as long as all that are elsewhere.
        return list(clip([*gradients, tf.cast(rest, gradients[0].dtype)]))[:-1]

    return clipped
