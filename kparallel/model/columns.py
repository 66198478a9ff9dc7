"""Tells on which devices of a plan each variable of a model has its copies, and which replica owns it.

```text
                      column of stage 0    column of stage 1
        replica 0     kernel               kernel'  metrics  counters of the optimizer
        replica 1     kernel               kernel'  metrics  counters of the optimizer
```

A weight is on the column of the stage that owns it, with its slots. All other variables are on the last stage's column.
Of a sharded optimizer, the slots are on one device of the column, that of the replica which owns the weight; so is the
weight itself with `shard="weights"`.

```text
                      column of stage 0
        replica 0     kernel  bias  slots of kernel
        replica 1     kernel  bias  slots of bias
```

Over several workers the owner is one of all replicas. The other workers hold the slots too until the first step.
"""

from collections.abc import Iterator

import keras

from kparallel.compat.layers import flatten_layers
from kparallel.compat.optimizers import optimizers_in, slots_by_weight, trained_by
from kparallel.compat.placed_variables import VariableOwner
from kparallel.compat.variables import has_single_copy
from kparallel.engine.owners import Load, share_out
from kparallel.model.runtime import Runtime
from kparallel.model_variables import bytes_of, optimizers_of, variables_of

__all__: list[str] = []

Column = tuple[str, ...]


def owners_of(model: keras.Model, runtime: Runtime) -> dict[int, int] | None:
    """Return, by the id of a weight, the replica that holds its slots and updates it; None without a sharded optimizer.

    Replicas are counted over all workers, and each worker finds the same.

    Args:
        model: The model, its optimizer built.
        runtime: The runtime with the plan.
    """
    if runtime.plan.shard is None:
        return None
    last, stages = len(runtime.plan.groups) - 1, _stages(model, runtime)
    known: set[int] = set()
    groups: list[dict[int, keras.Variable]] = []
    # Bytes: a weight has as much to hold and to update as its slots are large.
    slots: dict[int, int] = {}  # By the id of a weight.
    # Each of several optimizers counts the steps that it makes, so each gives some weight to every replica.
    for optimizer in _optimizers(model, runtime):
        groups.append({id(weight): weight for weight in trained_by(optimizer) if id(weight) not in known})
        known.update(groups[-1])
        for slot, weight in slots_by_weight(optimizer):
            slots[id(weight)] = slots.get(id(weight), 0) + bytes_of(slot)
    # Owners that moved when a layer is frozen or unfrozen would bring a new trace, by which that counts at once, where
    # plain Keras goes on until `compile`. So what the optimizers were built for is shared out by itself.
    groups.append({id(weight): weight for weight in model.trainable_variables if id(weight) not in known})
    owners: dict[int, int] = {}
    for each in groups:
        loads = [
            Load(
                slots.get(key, 0) + (bytes_of(weight) if runtime.plan.shard == "weights" else 0),
                bytes_of(weight),
                runtime.replicas_of(stages.get(key, last)),
            )
            for key, weight in each.items()
        ]
        owners |= zip(each, share_out(loads), strict=True)
    return owners


def columns_of(
    model: keras.Model, runtime: Runtime
) -> Iterator[tuple[keras.Variable, Column, bool, VariableOwner | None]]:
    """Yield each variable of a model once, with the devices of its copies, whether a single one is for all, and whose.

    The last one is given for what the workers share out: a slot, with `shard="weights"` a weight too.
    """
    last, stages, owners = len(runtime.plan.groups) - 1, _stages(model, runtime), owners_of(model, runtime)
    alone = set(map(id, _updated(model, runtime))) if runtime.plan.shard == "weights" else set()
    slots: dict[int, keras.Variable] = {}
    for optimizer in _optimizers(model, runtime):
        for slot, weight in slots_by_weight(optimizer):
            slots.setdefault(id(slot), weight)
    elsewhere = {
        id(slot)
        for optimizer in _optimizers_of_wrapped(model, runtime)
        for slot, _ in slots_by_weight(optimizer)
        if has_single_copy(slot)
    }
    for variable in variables_of(model):
        if id(variable) in elsewhere:
            continue
        # kernel                stages[kernel]      its own stage, with shard="weights" on its owner's device alone
        # slot of kernel        stages[kernel]      that of its weight
        # metric, counter       last                no stage's
        weight = slots.get(id(variable), variable)
        column = runtime.column(stages.get(id(variable), stages.get(id(weight), last)))
        if owners is None or (weight is variable and id(variable) not in alone):
            yield variable, column, False, None
            continue
        local = owners[id(weight)] - runtime.placement.first_replica
        is_here = 0 <= local < len(column)
        is_weight = weight is variable
        owner = (
            None
            if runtime.shared_out is None
            else VariableOwner(owners[id(weight)], is_here, runtime.shared_out, is_weight)
        )
        yield variable, (column[local] if is_here else runtime.host,), True, owner


def _updated(model: keras.Model, runtime: Runtime) -> list[keras.Variable]:
    """Return the weights that are updated, of which their owners alone may hold the value.

    As in plain Keras, a layer that is frozen after `compile` counts once the model is compiled again.
    """
    built = [optimizer for optimizer in _optimizers(model, runtime) if optimizer.built]
    trained = [weight for optimizer in built for weight in trained_by(optimizer)]
    return [weight for weight in trained or model.trainable_weights if isinstance(weight, keras.Variable)]


def _optimizers(model: keras.Model, runtime: Runtime) -> list[keras.optimizers.Optimizer]:
    """Return the optimizers whose slots follow the model's own plan."""
    others = set(map(id, _optimizers_of_wrapped(model, runtime)))
    return [optimizer for optimizer in optimizers_of(model) if id(optimizer) not in others]


def _optimizers_of_wrapped(model: keras.Model, runtime: Runtime) -> list[keras.optimizers.Optimizer]:
    """Return the optimizers of wrapped models inside a model that share them out: their plans place the slots.

    So are the discriminator's, which is compiled and trained by itself, in a model of the generator and it.
    """
    found: dict[int, keras.optimizers.Optimizer] = {}
    for layer in flatten_layers(model):
        inner = vars(layer).get("_kparallel")
        if layer is not model and inner is not None and inner is not runtime and inner.plan.shard is not None:
            found |= {id(each): each for each in optimizers_in(getattr(layer, "optimizer", None))}
    own = set(map(id, optimizers_in(getattr(model, "optimizer", None))))
    return [optimizer for key, optimizer in found.items() if key not in own]


def _stages(model: keras.Model, runtime: Runtime) -> dict[int, int]:
    """Return the stage of each weight and state by its id, for a model that is cut."""
    return runtime.stages_of(model) if model.built and len(runtime.plan.groups) > 1 else {}
