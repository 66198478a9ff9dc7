"""Makes a plan from the user's options: replicas, stages, devices and cut."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Any

import keras
import tensorflow as tf

from kparallel.compat.layers import flatten_layers
from kparallel.devices import check_devices, has_several_machines, local_devices
from kparallel.errors import PlanError
from kparallel.mesh import Mesh
from kparallel.model.auto_shard import with_shard
from kparallel.model.choose_mesh import choose_mesh
from kparallel.model.machine_columns import machine_rows
from kparallel.model.options import Options, check_options
from kparallel.model.required_graph import required_graph
from kparallel.model.shared_weights import check_shared_weights
from kparallel.model.slots_of_model import optimizer_slots
from kparallel.model_variables import bytes_of
from kparallel.planning.by_name import count_stages, stages_by_name
from kparallel.planning.cut import partition
from kparallel.planning.groups import layer_groups
from kparallel.planning.plan import LayerGroup, Plan
from kparallel.planning.request import Request
from kparallel.planning.search import choose
from kparallel.planning.shared_search import choose_shared
from kparallel.planning.units import Unit
from kparallel.stage.costs import measured, profile
from kparallel.stage.graph import Graph, open_graph

__all__: list[str] = []


def decide(model: keras.Model, options: Options, workers: int = 1) -> Plan:
    """Return the plan for a model.

    Args:
        model: The plain model. It has to be built if it is to be cut.
        options: The user's options.
        workers: The number of workers that share the replicas.

    Raises:
        DeviceError: A device is unknown or repeated, or the devices are of several kinds.
        PlanError: The options do not fit the model or the machine; the message says the way out.
    """
    check_options(options)
    # Only a built model has shapes, and so costs.
    graph = open_graph(model) if model.built else None
    if options.shard == "weights":
        check_shared_weights()
    if options.memory_per_device is not None:
        return _search(model, required_graph(graph, model, "to choose a plan"), options, workers)
    # `number` counts the stages; `stages` may be the cut itself.
    stages = 1 if options.stages is None else options.stages
    number = stages if isinstance(stages, int) else count_stages(stages)
    mesh = choose_mesh(options, number, workers)
    if number == 1:
        groups: tuple[LayerGroup, ...] = (_whole(model),)
        return _plan(model, mesh, groups, options.microbatches or 1, options, workers)
    if not isinstance(stages, int) and graph is None:
        return _by_layer(model, options, mesh, stages, workers)
    graph = required_graph(graph, model, f"for {number} stages")
    units = profile(graph)
    costs = _costs(options, graph, units)
    if isinstance(stages, int):
        starts = partition(costs, number, units)
        # `starts[s]` is the first unit of stage s, so the stage of a unit is the number of starts up to it, less one.
        stage_of = tuple(sum(index >= start for start in starts) - 1 for index in range(len(units)))
    else:
        stage_of = stages_by_name(units, stages)
    groups = layer_groups(units, stage_of, number, costs)
    # Four microbatches for each stage: beyond that the bubble shrinks little.
    microbatches = 4 * number
    if options.shard == "weights" and workers > 1:
        microbatches = 1  # The weights of a stage travel between the workers for each action.
    if options.batch_size is not None:
        # No replica can split its rows into more parts than it has rows.
        microbatches = min(microbatches, ceil(options.batch_size / (workers * mesh.replicas)))
    return _plan(model, mesh, groups, options.microbatches or microbatches, options, workers)


def _plan(
    model: keras.Model,
    mesh: Mesh,
    groups: tuple[LayerGroup, ...],
    microbatches: int,
    options: Options,
    workers: int,
) -> Plan:
    recompute = options.recompute or "never"
    plan = Plan(
        model.name,
        mesh,
        groups,
        microbatches,
        options.schedule,
        recompute,
        batch_size=options.batch_size,
        slots=optimizer_slots(model),
        workers=workers,
        shard=_shard(options, workers * mesh.replicas),
    )
    return with_shard(model, plan) if options.shard == "auto" else plan


def _shard(options: Options, replicas: int | None) -> str | None:
    """Return what the replicas share out among themselves; their number is None before a search."""
    # A training whose number of workers may change goes on when one worker is left, which has nobody to share with.
    alone = replicas == 1 and os.environ.get("KPARALLEL_ELASTIC")
    return None if options.shard == "auto" or alone else options.shard


def _search(model: keras.Model, graph: Graph, options: Options, workers: int) -> Plan:
    """Choose the fastest plan that fits the memory and has the values that the user fixed."""
    if options.batch_size is None:
        raise PlanError("Expected batch_size along with memory_per_device: activations grow with it. Say batch_size=.")
    if not isinstance(options.stages, int | None):
        raise PlanError("Expected memory_per_device to choose the cut, received a cut by hand as well. Leave one out.")
    if workers > 1:
        raise PlanError("Expected memory_per_device on one machine, received it in a cluster. Say replicas and stages.")
    units = profile(graph)
    devices = local_devices() if options.devices is None else check_devices(options.devices)
    rows_of = partial(machine_rows, devices, options) if has_several_machines() else None
    request = Request(
        units,
        devices,
        options.batch_size,
        options.memory_per_device,
        model_name=model.name,
        costs=_costs(options, graph, units),
        schedule=options.schedule,
        slots=optimizer_slots(model),
        replicas=options.replicas,
        stages=options.stages,
        microbatches=options.microbatches,
        recompute=options.recompute,
    )
    shared = options.shard == "weights"
    plan = choose_shared(request) if shared else choose(request, shard=_shard(options, None), rows_of=rows_of)
    # A model of one stage is not cut, so its group has no calls; a plan that was not searched has none either.
    # `choose` knows units alone, and groups of it name the calls of the graph.
    plan = replace(plan, groups=(_whole(model),)) if plan.mesh.stages == 1 else plan
    return with_shard(model, plan) if options.shard == "auto" else plan


def _by_layer(model: keras.Model, options: Options, mesh: Mesh, stages: Any, workers: int) -> Plan:
    """Return the plan for a model that cannot be cut: its layers are placed by name and run one after another."""
    unbuilt = [layer.name for layer in model.layers if not layer.built]
    if not model.built or unbuilt:
        raise PlanError(
            f"Expected a built model to put layers on devices, received {model.name!r} with the unbuilt layers "
            f"{unbuilt[:8]}. Call it on a few rows first."
        )
    if (options.microbatches or 1) > 1 or mesh.replicas > 1:
        raise PlanError(
            f"Expected one replica and one microbatch for {model.name!r} ({type(model).__name__}), whose call is "
            f"Python of its own, received {mesh.replicas} and {options.microbatches or 1}: its layers can be placed, "
            "but not pipelined. Express it as keras.Model(inputs, outputs) of its layers to pass microbatches on."
        )
    # Each layer is a unit without costs or reads: the cut is by hand, and nothing is known of what the call computes.
    units = [
        Unit(layer.name, 0.0, layer.count_params(), _bytes(layer.weights), 0, 0, (), (layer.name,))
        for layer in model.layers
    ]
    stage_of = stages_by_name(units, stages)
    total = sum(unit.parameters for unit in units) or 1
    groups = []
    for stage in range(mesh.stages):
        members = [unit for unit, stage_of_unit in zip(units, stage_of, strict=True) if stage_of_unit == stage]
        names, parameters = tuple(unit.name for unit in members), sum(unit.parameters for unit in members)
        if not members:
            raise PlanError(f"Expected every stage to have layers, received none for stage {stage}.")
        size = sum(unit.weight_bytes for unit in members)
        groups.append(LayerGroup(names, parameters, size, share=parameters / total))
    # No recomputation: it would need the inputs of a stage, and there are no stages.
    return _plan(model, mesh, tuple(groups), 1, replace(options, recompute=None), workers)


def check_plan(plan: Plan, model: keras.Model) -> None:
    """Check that a plan was made for this model, or for one with the same layers and weights.

    Raises:
        PlanError: The plan was made for a model with other layers or weights.
    """
    whole_model = _whole(model)
    if plan.shard == "weights":
        check_shared_weights()
    graph = open_graph(model) if len(plan.groups) > 1 and model.built else None
    units = len(graph.calls) if graph is not None else 0
    planned = sum(len(group.units) for group in plan.groups)
    sizes = [sum(group.parameters for group in plan.groups), sum(group.weight_bytes for group in plan.groups)]
    # The groups of a cut model name the calls of its opened graph, so their layers need not be those of the model.
    layers = len(plan.groups) > 1 or plan.groups[0].layers == whole_model.layers
    if (
        plan.model_name != model.name
        or not layers
        or units != planned
        or sizes != [whole_model.parameters, whole_model.weight_bytes]
    ):
        raise PlanError(
            f"Expected a plan made for model {model.name!r}, received one for {plan.model_name!r} "
            "with other layers or weights. Call kparallel.plan(model) for this model."
        )


def check_microbatches(model: keras.Model, plan: Plan) -> None:
    """Check that a model can be computed in microbatches.

    Raises:
        PlanError: The model has a synchronized BatchNorm, which would need all microbatches at once.
    """
    if plan.microbatches == 1:
        return
    for layer in flatten_layers(model):
        if getattr(layer, "synchronized", False):
            raise PlanError(
                f"Expected one microbatch for layer {layer.name!r} with synchronized=True, received "
                f"{plan.microbatches}: a microbatch is normalized before the next one has run. Use microbatches=1, or "
                "synchronized=False, which normalizes each microbatch by itself."
            )


def _costs(options: Options, graph: Graph, units: tuple[Unit, ...]) -> list[float]:
    """Return the cost of each unit by the measure of `balance`."""
    if options.balance == "time":
        return measured(graph, sample_inputs(graph, options.sample))
    if options.balance == "parameters":
        return [float(unit.parameters) for unit in units]
    return [unit.flops_per_row for unit in units]


def sample_inputs(graph: Graph, sample: Any) -> list[Any]:
    """Return flat inputs for the measurement: the user's sample, or 32 rows of zeros."""
    if sample is None:
        return [
            tf.zeros([32, *(1 if dim is None else dim for dim in graph.specs[number].shape[1:])], spec.dtype)
            for number in graph.inputs
            for spec in [graph.specs[number]]
        ]
    return [tf.convert_to_tensor(leaf) for leaf in keras.tree.flatten(sample)]


def _whole(model: keras.Model) -> LayerGroup:
    """Return the layer group of the whole model."""
    layers = tuple(layer.name for layer in model.layers if not isinstance(layer, keras.layers.InputLayer))
    weights = model.weights  # Of a model that is not built, those of the layers that are.
    parameters = sum(int(tf.TensorShape(w.shape).num_elements()) for w in weights)
    trained = [bytes_of(weight) for weight in model.trainable_weights]
    size = _bytes(weights)
    largest = max(trained, default=0)
    return LayerGroup(layers, parameters, size, frozen_bytes=size - sum(trained), largest_bytes=largest)


def _bytes(weights: Sequence[keras.Variable]) -> int:
    return sum(map(bytes_of, weights))
