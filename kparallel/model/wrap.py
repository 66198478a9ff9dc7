"""`wrap` and `plan`: what a user calls."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from kparallel.cluster import size
from kparallel.comm.compression import check_compression
from kparallel.comm.failures import translate_worker_loss
from kparallel.comm.join import cluster_strategy
from kparallel.devices import check_devices
from kparallel.errors import ModelError, PlanError
from kparallel.model.decide import check_microbatches, check_plan, decide
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


def plan(
    model: Any,
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
) -> Plan:
    """Decide how a model is spread over devices, without wrapping it.

    Args:
        model: A Keras model, or a zero-argument function that returns one.
        replicas: How many replicas on all workers; default as many as the devices hold.
        stages: Into how many stages the model is cut (default 1), or the cut by hand: device name to names or
            globs of layers, a list of such lists, or the names of the first layers of all later stages.
        microbatches: Into how many parts each replica's share of a batch is split; default 4 for each stage,
            1 for a single stage.
        schedule: `"1f1b"` (default), `"gpipe"`, `"interleaved"`, or a function of (stages, microbatches) that
            returns one sequence of actions for each lane.
        recompute: Which forward passes are run again for the backward, to save memory: `"never"` (default),
            `"always"`, or `"except_last"`, all microbatches but the last.
        balance: What an automatic cut makes equal: estimated `"flops"` (default), `"parameters"`, or measured
            `"time"`.
        sample: Inputs of a few rows for `balance="time"`; default zeros.
        devices: Names of this worker's devices; default every local GPU, else every local CPU device.
        memory_per_device: Such as `"8GB"`, or bytes. With it, what is not said of replicas, stages, microbatches and
            recompute is chosen: the fastest predicted step that fits, plain data parallelism wherever it fits.
        batch_size: Rows of the global batch, for estimates of memory and for the choice.
        shard: What the replicas of one process share out among themselves. `"optimizer"`: each weight has an owner
            among the replicas, which alone holds the optimizer's slots of the weight (Adam has two), updates it, and
            gives it to the others: the slots take a replica's part of the memory, and the update its part of the
            time. The result is the same for every optimizer. None: each replica holds all slots and updates
            everything. `"auto"` (default): None.

    Returns:
        The plan; print it, or pass it to `wrap`.

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
    """
    check_surroundings()
    cluster_strategy()  # Refuses a cluster that has not been joined, before TensorFlow starts.
    options = Options(
        replicas,
        stages,
        microbatches,
        schedule,
        recompute,
        balance,
        sample,
        devices,
        memory_per_device,
        batch_size,
        shard,
    )
    model = _built(model)
    check_model(model)
    return decide(model, options, size())


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
    if loss_reduction not in ("mean", "sum", "global"):
        raise PlanError(f"Expected loss_reduction 'mean', 'sum' or 'global', received {loss_reduction!r}.")
    if check not in ("error", "warn", "off"):
        raise PlanError(f"Expected check 'error', 'warn' or 'off', received {check!r}.")
    check_compression(gradient_compression)
    options = Options(
        replicas,
        stages,
        microbatches,
        schedule,
        recompute,
        balance,
        sample,
        devices,
        memory_per_device,
        batch_size,
        shard,
    )
    if not isinstance(plan, Plan | None):
        raise PlanError(
            f"Expected a plan that kparallel.plan made, received {plan!r}. Options have names: wrap(model, replicas=2)."
        )
    if plan is not None and options != Options():
        raise PlanError("Expected either a plan or the options that make one, received both.")
    model = _built(model)
    check_model(model)
    if plan is None:
        plan = decide(model, options, size())
    else:
        check_devices([name for row in plan.mesh.rows for name in row])
        check_plan(plan, model)
    check_microbatches(model, plan)
    check_steps(model, plan)
    facts = wrap_fingerprint(model, plan, loss_reduction, gradient_compression) | {"check": check}
    with translate_worker_loss():
        strategy, placement = place(plan.mesh, cluster, gradient_compression, lambda group: require_same(group, facts))
        return make_parallel(model, Runtime(plan, strategy, placement, loss_reduction, check))


def _built(model: Any) -> Any:
    """Return a model, or what a user's builder makes in host memory: no accelerator holds more than its own stage.

    Raises:
        ModelError: A builder returned no Keras model.
    """
    if isinstance(model, keras.layers.Layer) or not callable(model):
        return model
    with tf.device("CPU:0"):
        made = model()
    if not isinstance(made, keras.Model):
        raise ModelError(f"Expected a builder that returns a keras.Model, received {type(made).__name__}.")
    return made
