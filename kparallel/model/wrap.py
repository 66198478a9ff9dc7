"""`wrap` and `plan`: what a user calls."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from kparallel.cluster import worker_count
from kparallel.comm.compression import check_compression
from kparallel.comm.failures import translate_worker_loss
from kparallel.comm.join import cluster_strategy
from kparallel.errors import PlanError
from kparallel.forecast.forecast import Forecast
from kparallel.forecast.hardware import Hardware
from kparallel.model.choose_mesh import check_mesh
from kparallel.model.decide import check_microbatches, check_plan, decide
from kparallel.model.forecasting import forecast_model
from kparallel.model.layer_by_layer import build_model, place_pending
from kparallel.model.options import Options
from kparallel.model.overrides import check_steps
from kparallel.model.parallel_model import ParallelModel, make_parallel
from kparallel.model.place import place
from kparallel.model.runtime import Runtime
from kparallel.model.validate import check_model, check_surroundings
from kparallel.planning.plan import Plan
from kparallel.workers.consistency import require_same, wrap_fingerprint

__all__: list[str] = []

Stages = int | Mapping[str, Sequence[str]] | Sequence[Any]


@overload
def plan(
    model: Any,
    *,
    replicas: int | None = ...,
    stages: Stages | None = ...,
    microbatches: int | None = ...,
    schedule: Any = ...,
    recompute: str | None = ...,
    balance: str = ...,
    sample: Any = ...,
    devices: Sequence[str] | None = ...,
    memory_per_device: str | float | None = ...,
    batch_size: int | None = ...,
    shard: str | None = ...,
    cluster: None = ...,
) -> Plan: ...


@overload
def plan(
    model: Any,
    *,
    replicas: int | None = ...,
    stages: Stages | None = ...,
    microbatches: int | None = ...,
    schedule: Any = ...,
    recompute: str | None = ...,
    balance: str = ...,
    sample: Any = ...,
    devices: int | None = ...,
    memory_per_device: str | float | None = ...,
    batch_size: int | None = ...,
    shard: str | None = ...,
    cluster: str | Path | Hardware,
) -> Forecast: ...


def plan(
    model: Any,
    *,
    replicas: int | None = None,
    stages: Stages | None = None,
    microbatches: int | None = None,
    schedule: Any = None,
    recompute: str | None = None,
    balance: str = "flops",
    sample: Any = None,
    devices: Sequence[str] | int | None = None,
    memory_per_device: str | float | None = None,
    batch_size: int | None = None,
    shard: str | None = "auto",
    cluster: str | Path | Hardware | None = None,
) -> Plan | Forecast:
    """Decide how a model is spread over devices, without wrapping it; or forecast how fast a cluster would train it.

    With `cluster` nothing of this machine counts. The result is the best ways to train the model there, with the time
    of a step in its terms, and the memory of a device. A builder is called where its weights take no memory.

    Args:
        model: A Keras model, or a zero-argument function that returns one.
        replicas: How many replicas on all workers; default as many as the devices hold.
        stages: Into how many stages the model is cut (default 1), or the cut by hand: device name to names or
            globs of layers, a list of such lists, or the names of the first layers of all later stages.
        microbatches: Into how many parts each replica's share of a batch is split; default 4 for each stage,
            1 for a single stage.
        schedule: `"1f1b"` (default), `"gpipe"`, `"interleaved"`, `"zb_h1"`, `"zb_v"`, or a function of (stages,
            microbatches) that returns one sequence of actions for each lane. With `cluster` it is a name; by default
            all are tried.
        recompute: Which forward passes are run again for the backward, to save memory: `"never"` (default),
            `"always"`, or `"except_last"`, all microbatches but the last.
        balance: What an automatic cut makes equal: estimated `"flops"` (default), `"parameters"`, or measured
            `"time"`.
        sample: Inputs of a few rows for `balance="time"`; default zeros.
        devices: Names of this worker's devices; default every local GPU, else every local CPU device. With `cluster`
            the number of its devices; default as many as the file says.
        memory_per_device: Such as `"8GB"`, or bytes. With it, what is not said of replicas, stages, microbatches and
            recompute is chosen: the fastest predicted step that fits, plain data parallelism wherever it fits. With
            `shard="weights"` the fewest stages on each device that fit.
        batch_size: Rows of the global batch, for estimates of memory and for the choice.
        shard: What the replicas share out among themselves. `"optimizer"`: each weight has an owner among the
            replicas, in a cluster those of all workers, which alone holds the optimizer's slots of the weight (Adam
            has two), updates it, and gives it to the others: the slots take a replica's part of the memory, and the
            update its part of the time. The result is the same for every optimizer. `"weights"`: the owner alone
            holds the weight too, and a stage's weights are brought to a replica's device for each of its actions; for
            models that fill a device, in many stages on each device (`stages=8`, and as many `devices` as replicas). A
            step or loop of your own has all weights while it runs.
            None: each replica holds all weights and slots and updates everything. `"auto"` (default): with `cluster`,
            what is faster; else `"optimizer"` on one machine where that saves a compiled model enough time, as the
            printed plan then says, and otherwise None.
        cluster: A cluster file, or the name of one that comes with kparallel: `"8xA100"`, `"8xH100"`, `"cpu-hosts"`.
            With it, and `batch_size`, what is not said of replicas, stages, microbatches, schedule, recompute and shard
            is searched. Default None: plan for the devices of this machine.

    Returns:
        The plan; print it, or pass it to `wrap`. With `cluster`, the forecast; print it, or `plot` how it scales.

    Raises:
        BackendError: Keras does not run on TensorFlow.
        ClusterError: `TF_CONFIG` is malformed, or names a cluster that `kparallel.init` has not joined.
        DeviceError: A device is unknown, repeated or of mixed type.
        PlanError: The options do not fit the model or the machine; the message says the way out.
        ModelError: The model cannot be wrapped.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)], name="line")
        >>> print(plan(model, devices=["CPU:0"]))
        plan for 'line': 1 replica x 1 stage
                    stage 0
        replica 0   CPU:0
        stage 0: 1 layer, 4 parameters, 16 B of weights on each of CPU:0
        >>> plan(model, cluster="8xA100", batch_size=1024).best[0].time.bound_by
        'start'
    """
    check_surroundings()
    if cluster is None:
        cluster_strategy()  # Refuses a cluster that has not been joined, before TensorFlow starts.
    options = Options(
        replicas=replicas,
        stages=stages,
        microbatches=microbatches,
        schedule="1f1b" if schedule is None else schedule,
        recompute=recompute,
        balance=balance,
        sample=sample,
        devices=None if cluster is not None else devices,  # type: ignore[arg-type]
        memory_per_device=memory_per_device,
        batch_size=batch_size,
        shard=shard,
    )
    if cluster is None and isinstance(devices, int):
        raise PlanError(f"Expected the names of devices, received {devices}; a number goes with cluster.")
    if cluster is not None:
        return forecast_model(model, cluster, devices, options, schedule)  # type: ignore[arg-type]
    model, pending = build_model(model)
    pending.finish()
    check_model(model)
    return decide(model, options, worker_count())


def wrap(
    model: Any,
    plan: Plan | None = None,
    *,
    replicas: int | None = None,
    stages: Stages | None = None,
    microbatches: int | None = None,
    schedule: Any = "1f1b",
    recompute: str | None = None,
    balance: str = "flops",
    sample: Any = None,
    devices: Sequence[str] | None = None,
    memory_per_device: str | float | None = None,
    batch_size: int | None = None,
    shard: str | None = "auto",
    loss_reduction: str = "mean",
    gradient_compression: str | None = None,
    check: str = "error",
) -> ParallelModel:
    """Make a Keras model train over several devices and compute what plain Keras computes on one.

    Each replica takes a share of every batch; the stages of a replica hold its layers and pass microbatches
    on. The batch size stays the global one.

    The model is taken over in place, and returned: `wrap(model) is model`. Its variables move to the devices of the
    plan, its optimizer, metrics and compiled arguments stay the same objects, and so do its layers: another model that
    shares them sees what is trained. A model that is wrapped already is laid out anew. `unwrap()` turns it back;
    `keras.models.clone_model`, called first, makes a copy to keep.

    Args:
        model: A Keras model, built or not, compiled or not, or a zero-argument function that builds one in host
            memory, for a model that fits no single device.
        plan: A plan made by `kparallel.plan`; then none of the options that make a plan may be given.
        replicas, stages, microbatches, schedule, recompute, balance, sample, devices, memory_per_device, batch_size:
            As in `kparallel.plan`.
        shard: As in `kparallel.plan`.
        loss_reduction: What a loss of your own is of its rows: `"mean"` (default), what its graph shows, a mean, a sum
            or anything else, for which the outputs of all replicas are gathered; `"sum"`, scalars are sums over rows;
            `"global"`, outputs are always gathered.
        gradient_compression: The dtype in which gradients travel between replicas: `"bfloat16"` or `"float16"` halve
            the bytes of float32. Then training no longer equals one device: each replica's gradient and their sum are
            rounded, to 8 bits (bfloat16) or to 11 bits (float16, where a value below 6e-8 becomes 0 and one above
            65504 infinite). Default None, the gradients' own dtype.
        check: Before `fit`, `evaluate` or `predict` goes on, code of your own is run whole and divided, with two rows
            of the first batch for each part and one more, and put back: a step of your own on one device and on the
            replicas; in Keras's own step, where the model has layers, operations or losses that are not Keras's, its
            losses and gradients, or its outputs.
            Where the parts do not do the same, `"error"` (default) raises, `"warn"` warns; `"off"` does not look.

    Returns:
        The model that was given or built: compile and fit it as always.

    Raises:
        BackendError: Keras does not run on TensorFlow.
        ClusterError: `TF_CONFIG` is malformed, or names a cluster that `kparallel.init` has not joined.
        DeviceError: A device is unknown, repeated or of mixed type.
        PlanError: The plan was made for another model, or the options do not fit the model or the machine.
        ModelError: The model cannot be wrapped; the message says why and what to do, and the model is as it was.
        WorkerError: In a cluster, another worker wraps another model or follows another plan.

    Example:
        >>> import keras
        >>> plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> model = wrap(plain, devices=["CPU:0"])
        >>> model.compile(optimizer="adam", loss="mse")
    """
    check_surroundings()
    cluster = cluster_strategy()
    _check_choice("loss_reduction", loss_reduction, ("mean", "sum", "global"))
    _check_choice("check", check, ("error", "warn", "off"))
    check_compression(gradient_compression)
    # An option that the user did not give has its default there, by which `given` tells them apart.
    options = Options(
        replicas=replicas,
        stages=stages,
        microbatches=microbatches,
        schedule=schedule,
        recompute=recompute,
        balance=balance,
        sample=sample,
        devices=devices,
        memory_per_device=memory_per_device,
        batch_size=batch_size,
        shard=shard,
    )
    _check_plan_or_options(plan, options)
    free = plan is None and shard == "auto"
    model, pending = build_model(model)
    with translate_worker_loss(), pending:
        check_model(model)
        if balance == "time":
            pending.finish()  # It runs the layers.
        if plan is None:
            plan = decide(model, options, worker_count())
        else:
            plan = replace(plan, mesh=check_mesh(plan.mesh))
            check_plan(plan, model)
        check_microbatches(model, plan)
        check_steps(model, plan)
        # Compared between the workers before the first collective that depends on them, see `place`.
        facts = wrap_fingerprint(model, plan, loss_reduction, gradient_compression) | {"check": check}
        strategy, placement = place(plan.mesh, cluster, gradient_compression, lambda group: require_same(group, facts))
        runtime = Runtime(plan, strategy, placement, loss_reduction, check)
        runtime.shard_is_free = free
        place_pending(model, runtime, pending)
        return make_parallel(model, runtime)


def _check_plan_or_options(plan: Any, options: Options) -> None:
    if not isinstance(plan, Plan | None):
        raise PlanError(
            f"Expected a plan that kparallel.plan made, received {plan!r}. Options have names: wrap(model, replicas=2)."
        )
    if plan is not None and options.given():
        raise PlanError(
            f"Expected either a plan or the options that make one, received a plan and {', '.join(options.given())}."
        )


def _check_choice(name: str, value: str, choices: tuple[str, str, str]) -> None:
    if value not in choices:
        first, second, third = map(repr, choices)
        raise PlanError(f"Expected {name} {first}, {second} or {third}, received {value!r}.")
