"""Random functions, as a comparison of one device with several replicas needs them: with the same numbers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from typing import Any, Protocol

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import random
from tensorflow.python.eager import context
from tensorflow.python.ops import gen_random_ops

__all__: list[str] = []

_BY_SHAPE = ("normal", "uniform", "randint", "truncated_normal", "gamma", "binomial", "beta")
_BY_ROWS = ("categorical",)  # Take a tensor whose rows they draw for.
# The operations of TensorFlow's own that take a shape, the functions by which they are made, and what draws alike by a
# seed that is given. `tf.random`, `tf.image` and `tf.nn` look the functions up in their module.
_BY_SEED: dict[str, tuple[str, Callable[..., tf.Tensor]]] = {
    "RandomStandardNormal": ("random_standard_normal", tf.random.stateless_normal),
    "RandomUniform": ("random_uniform", tf.random.stateless_uniform),
    "RandomUniformInt": ("random_uniform_int", tf.random.stateless_uniform),
    "TruncatedNormal": ("truncated_normal", tf.random.stateless_truncated_normal),
}


class Rows(Protocol):
    """Which rows are drawn for."""

    def number(self, rows: Any) -> int | None:
        """Return for how many rows to draw, None for as many as was asked for.

        Args:
            rows: The first dim of what was asked for: a number, or a tensor in a graph.
        """

    def seed(self) -> int:
        """Return a seed for the last draw that was asked for: the same in all runs."""

    def own(self, drawn: tf.Tensor) -> tf.Tensor:
        """Return the rows that are this part's."""

    def among(self, given: tf.Tensor) -> tf.Tensor:
        """Return a tensor of this part's rows among those that are drawn for."""


@contextmanager
def drawing_for(rows: Callable[[], Rows | None]) -> Iterator[None]:
    """Let random functions draw for other rows than they are asked for: Keras's, and those that `is_held` names.

    Args:
        rows: Returns which rows are drawn for in the present thread; None leaves a draw alone.
    """
    # Layers and `keras.random` look these functions up in the module at each call.
    before = {name: getattr(random, name) for name in (*_BY_SHAPE, *_BY_ROWS, "dropout")}
    for name in _BY_SHAPE:
        setattr(random, name, _by_shape(before[name], rows))
    for name in _BY_ROWS:
        setattr(random, name, _by_rows(before[name], rows))
    random.dropout = _dropout(before["dropout"], rows)
    operations = {name: getattr(gen_random_ops, name) for name, _ in _BY_SEED.values()}
    for name, by_seed in _BY_SEED.values():
        setattr(gen_random_ops, name, _by_seed(operations[name], by_seed, rows))
    try:
        yield
    finally:
        for module, functions in ((random, before), (gen_random_ops, operations)):
            for name, function in functions.items():
                setattr(module, name, function)


def is_held(operation: tf.Operation) -> bool:
    """Tell whether an operation draws numbers that `drawing_for` gives in its place, if a function makes it."""
    return operation.type in _BY_SEED


def _by_shape(draw: Callable[..., tf.Tensor], rows: Callable[[], Rows | None]) -> Callable[..., tf.Tensor]:
    @wraps(draw)
    def drawn(shape: Sequence[Any], *args: Any, **kwargs: Any) -> tf.Tensor:
        part = rows()
        if part is None:
            return draw(shape, *args, **kwargs)
        dims = _dims(shape)
        # The first dim of what is asked for: of a tensor for the rows it is their number.
        number = part.number(dims[0]) if dims else None
        if number is None:
            return draw(shape, *args, **kwargs)
        return part.own(draw([number, *dims[1:]], *args, **kwargs))

    return drawn


def _by_seed(
    draw: Callable[..., tf.Tensor], by_seed: Callable[..., tf.Tensor], rows: Callable[[], Rows | None]
) -> Callable[..., tf.Tensor]:
    @wraps(draw)
    def drawn(shape: Any, *args: Any, **kwargs: Any) -> tf.Tensor:
        part = rows()
        if part is None:
            return draw(shape, *args, **kwargs)
        given = signature(draw).bind(shape, *args, **kwargs).arguments
        # Of whole numbers the bounds, of any others the dtype.
        kind = {name: given[name] for name in ("minval", "maxval", "dtype") if name in given}
        if "minval" in kind:
            kind["dtype"] = tf.convert_to_tensor(kind["minval"]).dtype
        dims = _dims(shape)
        number = part.number(dims[0] if dims else None)
        seed = tf.constant([part.seed(), 0])
        if number is None:
            return by_seed(shape, seed, **kind)
        return part.own(by_seed([number, *dims[1:]], seed, **kind))

    return drawn


def _by_rows(draw: Callable[..., tf.Tensor], rows: Callable[[], Rows | None]) -> Callable[..., tf.Tensor]:
    @wraps(draw)
    def drawn(given: tf.Tensor, *args: Any, **kwargs: Any) -> tf.Tensor:
        part = rows()
        if part is None or not given.shape.rank:
            return draw(given, *args, **kwargs)
        if part.number(_dims(tf.shape(given))[0]) is None:
            return draw(given, *args, **kwargs)
        return part.own(draw(part.among(given), *args, **kwargs))

    return drawn


def _dropout(draw: Callable[..., tf.Tensor], rows: Callable[[], Rows | None]) -> Callable[..., tf.Tensor]:
    @wraps(draw)
    def drawn(inputs: tf.Tensor, rate: float, noise_shape: Any = None, seed: Any = None) -> tf.Tensor:
        part = rows()
        if part is None or not inputs.shape.rank:
            return draw(inputs, rate, noise_shape=noise_shape, seed=seed)
        dims = [None] * inputs.shape.rank if noise_shape is None else _dims(noise_shape)
        # A mask of one row is shared by all; None stands for the tensor's own dim.
        asked = _dims(tf.shape(inputs))[0] if dims[0] is None else dims[0]
        if part.number(asked) is None:
            return draw(inputs, rate, noise_shape=noise_shape, seed=seed)
        return part.own(draw(part.among(inputs), rate, noise_shape=[None, *dims[1:]], seed=seed))

    return drawn


def _dims(shape: Any) -> list[Any]:
    """Return the dims of a shape: numbers where they are known, else tensors."""
    dims = list(shape) if isinstance(shape, list | tuple | tf.TensorShape) else tf.unstack(shape)
    known = [tf.get_static_value(dim) if tf.is_tensor(dim) else dim for dim in dims]
    return [dim if value is None else int(value) for dim, value in zip(dims, known, strict=True)]


@contextmanager
def operation_seeds_put_back() -> Iterator[None]:
    """Put back the generator from which TensorFlow seeds random operations that run eagerly."""
    generator = getattr(context.context(), "_rng", None)  # None before a global seed is set.
    before = None if generator is None else generator.getstate()
    try:
        yield
    finally:
        if generator is not None:
            generator.setstate(before)


@contextmanager
def moving_statistics(layers: Sequence[keras.layers.Layer]) -> Iterator[None]:
    """Let BatchNormalization layers use their moving statistics, also while training.

    Args:
        layers: Some layers, of any kind.
    """
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = [vars(norm).get("call") for norm in norms]
    for norm in norms:
        vars(norm)["call"] = _resting(norm.call)
    try:
        yield
    finally:
        for norm, had in zip(norms, before, strict=True):
            if had is None:
                del vars(norm)["call"]
            else:
                vars(norm)["call"] = had


def _resting(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def resting(inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return call(inputs, training=False, mask=mask)

    return resting
