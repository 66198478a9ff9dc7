"""Forecasts a Keras model on a cluster: what `kparallel.plan(build, cluster=...)` does."""

from collections import Counter
from pathlib import Path
from typing import Any

import keras

from kparallel.compat.weightless import build_weightless
from kparallel.devices import local_devices
from kparallel.errors import ModelError, PlanError
from kparallel.forecast.configuration import Fixed
from kparallel.forecast.forecast import Forecast, forecast
from kparallel.forecast.hardware import Hardware
from kparallel.forecast.hardware_file import read_hardware
from kparallel.mesh import device_kind, device_worker, full_device_name
from kparallel.model.decide import sample_inputs
from kparallel.model.options import Options, check_options
from kparallel.model.required_graph import required_graph
from kparallel.model.slots_of_model import optimizer_slots
from kparallel.planning.predict import BACKWARD_COST
from kparallel.planning.units import Unit
from kparallel.stage.call_times import call_times
from kparallel.stage.costs import profile
from kparallel.stage.graph import Graph, open_graph
from kparallel.stage.speed import matmul_rate

__all__: list[str] = []


def forecast_model(
    model: Any, cluster: str | Path | Hardware, devices: int | None, options: Options, schedule: str | None
) -> Forecast:
    """Predict the best ways to train a model on a cluster.

    Args:
        model: A Keras model, or a zero-argument function that returns one. A function is called where no weight takes
            memory, unless times are to be measured.
        cluster: A cluster file, the name of one that comes with kparallel, or hardware.
        devices: How many devices of such machines; default those of the file.
        options: What the user has said.
        schedule: The name of the schedule; None for the search to choose.

    Raises:
        ModelError: The function returned no Keras model.
        PlanError: The options do not fit, the file is not valid, or nothing fits the memory.
    """
    check_options(options)
    _check(options, devices)
    hardware = read_hardware(cluster)
    if devices is not None:
        hardware = hardware.with_devices(devices)
    assert options.batch_size is not None
    model = _built(model, options.balance == "time")
    graph = required_graph(open_graph(model) if model.built else None, model, "to forecast it")
    units = profile(graph)
    per_call: list[float] | None = None
    if options.balance == "time":
        per_row, per_call = _measured(graph, options, hardware)
    else:
        per_row = _by_arithmetic(graph, units, hardware)
    assert isinstance(options.stages, int | None)
    fixed = Fixed(options.replicas, options.stages, options.microbatches, schedule, options.recompute, options.shard)
    return forecast(
        units,
        hardware,
        options.batch_size,
        model_name=model.name,
        seconds_per_row=per_row,
        seconds_per_call=per_call,
        slots=optimizer_slots(model),
        fixed=fixed,
    )


def _check(options: Options, devices: Any) -> None:
    """Check what a forecast needs, and what it cannot be given."""
    if options.batch_size is None:
        raise PlanError("Expected batch_size along with cluster: time and memory grow with it. Say batch_size=.")
    if options.memory_per_device is not None:
        raise PlanError(
            "Expected the memory of a device in the cluster file, received memory_per_device as well. Leave it out."
        )
    if not isinstance(options.stages, int | None):
        raise PlanError("Expected cluster to choose the cut, received a cut by hand as well. Say stages as a number.")
    if not isinstance(options.schedule, str):
        raise PlanError(
            f"Expected the name of a schedule along with cluster, received {options.schedule!r}. Register it, or leave "
            "it out."
        )
    if options.balance == "parameters":
        raise PlanError("Expected balance 'flops' or 'time' along with cluster, received 'parameters'.")
    if devices is not None and (isinstance(devices, bool) or not isinstance(devices, int)):
        raise PlanError(f"Expected devices as a number along with cluster, received {devices!r}.")


def _built(model: Any, with_weights: bool) -> keras.Model:
    if not isinstance(model, keras.layers.Layer) and callable(model):
        model = model() if with_weights else _weightless(model)
        if not isinstance(model, keras.Model):
            raise ModelError(f"Expected a builder that returns a keras.Model, received {type(model).__name__}.")
    return model


def _weightless(build: Any) -> Any:
    try:
        return build_weightless(build)
    except Exception:  # A builder that reads weights, as one that loads a file: it gets them, or raises its own error.
        return build()


def _by_arithmetic(graph: Graph, units: tuple[Unit, ...], hardware: Hardware) -> list[float]:
    """Return the seconds of each call for one row; each layer at the FLOP/s of the dtype in which it computes."""
    dtypes = [getattr(call.operation, "compute_dtype", None) for call in graph.calls]
    usual = Counter(dtype for dtype in dtypes if dtype is not None).most_common(1)
    # Operations that are no layers have no dtype; they compute in that of most layers.
    default = usual[0][0] if usual else "float32"
    return [
        unit.flops_per_row / hardware.flop_rate(dtype or default) for unit, dtype in zip(units, dtypes, strict=True)
    ]


def _measured(graph: Graph, options: Options, hardware: Hardware) -> tuple[list[float], list[float]]:
    """Return the seconds of each call for one row and for any number, measured here and scaled to the cluster."""
    dtypes = [getattr(call.operation, "compute_dtype", None) or "float32" for call in graph.calls]
    for dtype in dtypes:
        hardware.flop_rate(dtype)  # Refuses a dtype without a figure before anything is measured.
    devices = _measured_devices()
    # How much faster the cluster multiplies matrices.
    scale = {dtype: matmul_rate(dtype, devices) / hardware.flops[dtype] for dtype in set(dtypes)}
    # A measured time covers forward and backward, where a unit's is forward alone.
    times = call_times(graph, sample_inputs(graph, options.sample), devices)
    factors = [scale[dtype] / (1 + BACKWARD_COST) for dtype in dtypes]
    return (
        [time.per_row * factor for time, factor in zip(times, factors, strict=True)],
        [time.per_call * factor for time, factor in zip(times, factors, strict=True)],
    )


def _measured_devices() -> list[str]:
    """Return the devices on which calls are measured at once: virtual CPU devices share cores, a GPU has its own."""
    devices = local_devices()
    own = [full_device_name(name) for name in devices if device_worker(name) == device_worker(devices[0])]
    return own if device_kind(devices[0]) == "CPU" else own[:1]
