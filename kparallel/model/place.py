"""Makes the strategy and the communicators for a mesh, on one machine or in a cluster."""

from collections.abc import Callable

import tensorflow as tf

from kparallel.comm.communicator import Communicator, LocalCommunicator, SingleReplica
from kparallel.comm.group import SingleWorker, TFWorkerGroup, WorkerGroup
from kparallel.comm.join import cluster_departures, peer_connections
from kparallel.comm.ring_communicator import RingCommunicator
from kparallel.comm.tf_collectives import TFCommunicator
from kparallel.compat.distribute import mirrored
from kparallel.devices import has_several_machines
from kparallel.engine.placement import Placement
from kparallel.errors import PlanError
from kparallel.mesh import Mesh, full_device_name

__all__: list[str] = []


def place(
    mesh: Mesh, cluster: tf.distribute.Strategy | None, compression: str | None, agree: Callable[[WorkerGroup], None]
) -> tuple[tf.distribute.Strategy, Placement]:
    """Return the strategy that holds the variables of a mesh, and the placement of its replicas.

    Args:
        mesh: This worker's rows.
        cluster: The cluster's strategy, or None on one machine.
        compression: The dtype in which gradients travel, or None.
        agree: In a cluster, a check that all workers have the same plan. It is called before any other collective.

    Raises:
        PlanError: The mesh has another number of replicas than the cluster's strategy.
    """
    if cluster is None:
        # TensorFlow's strategy knows one device for each replica, that of stage 0. The variables of the other stages
        # are placed by `take_over`. It takes local devices only, by names without a worker.
        own = tuple(row[0].rpartition("/")[2] for row in mesh.rows)
        strategy = mirrored(own, collectives=not has_several_machines())
        rows = tuple(tuple(map(full_device_name, row)) for row in mesh.rows)
        columns = [tuple(row[stage] for row in rows) for stage in range(mesh.stages)]
        communicators: list[Communicator] = [
            SingleReplica() if mesh.replicas == 1 else LocalCommunicator(column) for column in columns
        ]
        return strategy, Placement(rows, 0, mesh.replicas, tuple(communicators), SingleWorker(), compression)
    # /job:worker/replica:0/task:1  +  CPU:0  ─►  /job:worker/replica:0/task:1/device:CPU:0
    worker = cluster.extended.worker_devices[0].rsplit("/device:", 1)[0]
    rows = tuple(tuple(f"{worker}/device:{name}" for name in row) for row in mesh.rows)
    replicas = cluster.num_replicas_in_sync
    taken = len(cluster.extended.worker_devices)
    if mesh.replicas != taken:
        raise PlanError(
            f"Expected {taken} replicas on this worker, one for each device that TensorFlow's multi-worker strategy "
            f"takes, received {mesh.replicas}. Say replicas={replicas}, and no stages where the devices are GPUs: "
            "stages over the GPUs of a worker train on one machine only. CUDA_VISIBLE_DEVICES hides GPUs from a worker."
        )
    index = cluster.cluster_resolver.task_id
    # All workers have as many replicas; the check of equal plans comes first.
    first = mesh.replicas * index
    workers = len(cluster.cluster_resolver.cluster_spec().as_dict()["worker"])
    # The check comes before the communicators are made. Workers whose plans differ in stages would make different
    # numbers of them; so far all have numbered the same collectives, and can report the difference.
    group = TFWorkerGroup(cluster, workers, index, cluster_departures())
    agree(group)
    columns = [tuple(row[stage] for row in rows) for stage in range(mesh.stages)]
    return cluster, Placement(rows, first, replicas, _communicators(columns, cluster, first, group), group, compression)


def _communicators(
    columns: list[tuple[str, ...]], strategy: tf.distribute.Strategy, first_replica: int, group: WorkerGroup
) -> tuple[Communicator, ...]:
    """Return the communicator of each column: a ring if all devices are CPUs, else TensorFlow's collectives."""
    plain = [TFCommunicator(column, strategy, strategy.num_replicas_in_sync, first_replica) for column in columns]
    # The ring adds in the host's memory. Between GPUs NCCL needs no detour over it.
    connections = peer_connections() if all(":CPU:" in device for column in columns for device in column) else None
    rings = None if connections is None else connections.rings(len(columns), group)
    if rings is None:
        return tuple(plain)
    return tuple(
        RingCommunicator(column, ring, communicator, first_replica)
        for column, ring, communicator in zip(columns, rings, plain, strict=True)
    )
