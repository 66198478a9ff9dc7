"""The memory of the devices of one replica: what each lane holds, and which runs of segments a stage can hold."""

import numpy as np
import numpy.typing as npt

from kparallel.forecast.configuration import Configuration
from kparallel.forecast.timing import kept, lanes_of
from kparallel.forecast.work import Array, StageWork, Work
from kparallel.planning.memory import stage_memory
from kparallel.planning.shares import at_once, shared_weights

__all__: list[str] = []


def device_memory(configuration: Configuration, stages: StageWork, rows: int, slots: float) -> Array:
    """Return the bytes on each device of a replica.

    Args:
        configuration, stages: What is trained how.
        rows: The number of rows of the largest microbatch.
        slots: The number of optimizer variables for each weight.
    """
    shape = configuration.schedule, configuration.lanes, configuration.stages
    # `[lane]`: a device holds all stages of its lane.
    by_lane = np.zeros(configuration.lanes)
    flying, waiting = kept(*shape, configuration.microbatches)
    activations = []
    for stage, lane in enumerate(lanes_of(configuration.schedule, configuration.stages, configuration.lanes)):
        memory = stage_memory(
            stages.weights[stage],
            rows * stages.activations[stage],
            rows * stages.arriving[stage],
            flying[stage],
            configuration.recompute,
            slots,
            stages.frozen[stage],
            configuration.replicas if configuration.shard else 1,
            stages.largest[stage],
            waiting[stage],
        )
        by_lane[lane] += memory.total
        activations.append(float(memory.activations))
    if configuration.shard == "weights":
        held = shared_weights(
            stages.trained.tolist(),
            float(stages.frozen.sum()),
            float(stages.largest.max()),
            at_once(configuration.recompute, activations, (rows * stages.arriving * flying).tolist()),
            configuration.replicas,
            slots,
            configuration.microbatches,
        )
        return np.array([held.total])
    return by_lane


def fitting_runs(configuration: Configuration, work: Work, rows: int, slots: float) -> npt.NDArray[np.bool_]:
    """Return which runs of segments each stage can hold, `[stage, start, end]`; the stages of a lane alike.

    Args:
        configuration: What is trained how.
        work: The model on the cluster.
        rows: The number of rows of the largest microbatch.
        slots: The number of optimizer variables for each weight.
    """
    sums = work.run_sums
    activations, arriving = rows * sums("activation_bytes_per_row"), rows * work.incoming
    # Of one, two and three microbatches in flight. Beyond two, each adds as much as the third.
    one, two, three = (
        stage_memory(
            sums("weight_bytes"),
            activations,
            arriving,
            in_flight,
            configuration.recompute,
            slots,
            sums("frozen_bytes"),
            configuration.replicas if configuration.shard else 1,
        ).total
        for in_flight in (1, 2, 3)
    )
    more = three - two
    # The stages of a lane share its device, each with an equal part of the memory.
    limit = work.hardware.memory_per_device * configuration.lanes / configuration.stages
    shape = configuration.schedule, configuration.lanes, configuration.stages
    fits = []
    for flies, waits in zip(*kept(*shape, configuration.microbatches), strict=True):
        # Gradients of activations; and activations, which recomputation frees after those of weights only.
        left = limit - waits * (1 if configuration.recompute == "never" else 2) * activations
        fits.append(one <= left if flies == 1 else (flies - 2) * more <= left - two)
    return np.stack(fits)
