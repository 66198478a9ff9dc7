"""How many slots a model's optimizer keeps for each weight."""

import keras

from kparallel.compat.optimizers import own_optimizer
from kparallel.planning.memory import slots_of

__all__: list[str] = []


def optimizer_slots(model: keras.Model) -> float:
    """Return the number of variables that the optimizer keeps for each weight; 2, as for Adam, without an optimizer."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return 2
    optimizer = own_optimizer(optimizer)
    # Each of these options adds one variable for each weight.
    more = [getattr(optimizer, name, False) for name in ("momentum", "centered", "amsgrad", "use_ema")]
    return slots_of(type(optimizer).__name__, sum(1 for each in more if each))
