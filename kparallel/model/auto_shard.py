"""Decides whether the replicas of a model share the optimizer out, where the user leaves it open: `shard="auto"`.

```text
wrap, plan ──► a model that is compiled       plan.shard, plan.shard_reason
compile    ──► once more, with its optimizer
loop       ──► no more: nothing is shared out from the first update of a loop of the user's own on
```

Before `compile` the optimizer is unknown.
"""

from dataclasses import replace
from typing import Any

import keras

from kparallel.compat.layers import flatten_layers
from kparallel.compat.optimizers import optimizers_in
from kparallel.compat.training import renew_functions
from kparallel.devices import has_several_machines
from kparallel.model.build import place_new
from kparallel.model.overrides import STEPS, has_own
from kparallel.model.runtime import Runtime
from kparallel.model.slots_of_model import optimizer_slots
from kparallel.model_variables import bytes_of
from kparallel.planning.plan import Plan
from kparallel.planning.report import format_bytes
from kparallel.planning.sharding import TrainedBytes, saved_bytes, sharding_pays

__all__: list[str] = []


def with_shard(model: keras.Model, plan: Plan) -> Plan:
    """Return a plan whose replicas share the optimizer out if that makes a step faster and nothing else differs.

    So it is left alone in a cluster, where a slot can be read at some moments only; in one program over several
    machines; under an optimizer or a training step of the user's own, which may use what Keras's do not; and in a step
    that runs eagerly.

    Args:
        model: The model. Nothing is shared out unless it is compiled with an optimizer.
        plan: The plan, whatever it shares out.
    """
    reason = _reason(model, plan) if _is_free(model, plan) else ""
    shard = "optimizer" if reason else None
    return replace(plan, shard=shard, shard_reason=reason)


def keep_whole(model: keras.Model, runtime: Runtime) -> None:
    """Let each replica keep all of the optimizer from now on, unless the user has said what is shared out.

    A step of the user's own may update within a condition, where no replica waits for another. A loop of the user's own
    has traced a function that keeps the slots where they were, so `compile` must not choose other places.

    Args:
        model: The wrapped model.
        runtime: Its own.
    """
    if not runtime.shard_is_free:
        return
    chosen, runtime.plan = runtime.plan, replace(runtime.plan, shard=None, shard_reason="")
    if chosen.shard is not None:
        place_new(model, runtime)  # While the choice counts as free, slots that lie elsewhere are looked for.
    runtime.shard_is_free = False
    if chosen.shard is not None:
        renew_functions(model)  # They update each slot on its former owner alone.


def _is_free(model: keras.Model, plan: Plan) -> bool:
    alone = plan.workers == 1 and not has_several_machines()
    # Layers that are placed by name have one replica.
    if not alone or plan.replicas == 1 or not model.built or model.run_eagerly:
        return False
    optimizer = getattr(model, "optimizer", None)
    known = optimizer is not None and all(map(_is_kerass, optimizers_in(optimizer)))
    return known and not any(has_own(model, hook) for hook in STEPS)


def _reason(model: keras.Model, plan: Plan) -> str:
    """Return what is saved, or an empty text if that is too little."""
    trained, slots = trained_bytes(model, plan.mesh.stages), optimizer_slots(model)
    if not sharding_pays(trained, slots, plan.replicas):
        return ""
    saved = format_bytes(saved_bytes(trained, slots, plan.replicas))
    return f"each replica reads and writes about {saved} less of its memory in a step (shard='auto')"


def trained_bytes(model: keras.Model, stages: int) -> TrainedBytes:
    """Return the bytes of the weights that are trained, of which a device has those of its stage.

    Args:
        model: A built model.
        stages: The number of stages, which count as equally large.
    """
    tables = {
        id(layer.embeddings)
        for layer in flatten_layers(model)
        if isinstance(layer, keras.layers.Embedding) and layer.built
    }
    dense = [bytes_of(weight) for weight in model.trainable_weights if id(weight) not in tables]
    sliced = [bytes_of(weight) for weight in model.trainable_weights if id(weight) in tables]
    return TrainedBytes(sum(dense) / stages, sum(sliced) / stages)


def _is_kerass(optimizer: Any) -> bool:
    return getattr(keras.optimizers, type(optimizer).__name__, None) is type(optimizer)
