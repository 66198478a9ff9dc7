"""Trains what the catalogue makes, and compares what came out."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

import kparallel
from tests.catalogue.deviations import Deviation
from tests.choice import some
from tests.equality.measure import differences, use
from tests.equality.tolerances import FLOAT64

# Two full batches and one of three rows.
ROWS, BATCH = 11, 4
PLANS = {
    "replicas": {"replicas": 2},
    "stages": {"replicas": 1, "stages": 2, "microbatches": 2},
}
# Of optimizers one more.
SHARDED = {**PLANS, "sharded": {"replicas": 2, "shard": "optimizer"}}


def in_turn(names: Sequence[str], chosen: Sequence[str], among: dict[str, Any] = PLANS) -> list[Any]:
    """Return (name, plan) for every name and plan as parameters: those chosen under one plan each, the rest `full`."""
    plans = list(among)
    default = {(name, plans[number % len(plans)]) for number, name in enumerate(chosen)}
    pairs = [(name, plan) for name in names for plan in plans]
    return some(pairs, *(pair for pair in pairs if pair in default))


def trained(
    make: Callable[[], keras.Model],
    x: Any,
    y: Any,
    plan: dict[str, Any] | None,
    weight: Any = None,
    policy: str = "float64",
) -> dict[str, np.ndarray]:
    """Fit a model and return what it came to, by name: weights, optimizer variables, history, predictions.

    Args:
        make: Makes and compiles the model.
        x, y: The data.
        plan: Keyword arguments of `kparallel.wrap`; None trains plain Keras.
        weight: The sample weights.
        policy: The dtype policy.
    """
    use(policy)
    keras.utils.set_random_seed(0)
    model = make()
    if plan is not None:
        model = kparallel.wrap(model, **plan)
    history = model.fit(x, y, batch_size=BATCH, sample_weight=weight, shuffle=False, verbose=0).history
    found = {f"weight {number}": value for number, value in enumerate(model.get_weights())}
    found |= {f"slot {number}": variable.numpy() for number, variable in enumerate(model.optimizer.variables)}
    found |= {f"history {key}": np.asarray(values) for key, values in history.items()}
    outputs = keras.tree.flatten(model.predict(x, batch_size=BATCH, verbose=0))
    return found | {f"prediction {number}": np.asarray(value) for number, value in enumerate(outputs)}


def beyond(got: dict[str, np.ndarray], want: dict[str, np.ndarray], limit: float = FLOAT64) -> dict[str, float]:
    """Return by name what differs by more than a limit, and by how much; a NaN differs."""
    return {name: value for name, value in differences(got, want).items() if not value <= limit}


def check(
    make: Callable[[], keras.Model], x: Any, y: Any, plan: str, known: Deviation | None, policy: str = "float64"
) -> None:
    """Make sure that a wrapped fit equals the plain one, or deviates as it is known to do.

    Args:
        make: Makes and compiles the model.
        x, y: The data.
        plan: One of `SHARDED`.
        known: How it deviates; None where it has to be equal.
        policy: The dtype policy.
    """
    want = trained(make, x, y, None, policy=policy)
    try:
        far = beyond(trained(make, x, y, SHARDED[plan], policy=policy), want)
        outcome, what = ("unequal", str(far)) if far else ("equal", "")
    except kparallel.errors.KParallelError as error:
        outcome, what = "refused", str(error)
    expected = known.outcome if known else "equal"
    assert outcome == expected, f"expected {expected}{f' ({known.reason})' if known else ''}, found {outcome} {what}"
