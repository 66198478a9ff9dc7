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
