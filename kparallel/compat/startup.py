"""How TensorFlow's runtime starts."""

import os
import sys

import tensorflow as tf
from tensorflow.python.eager import context

__all__: list[str] = []


def tensorflow_has_started() -> bool:
    """Return whether TensorFlow's runtime runs already, so that it takes no cluster any more."""
    return context.context()._context_handle is not None


def take_back_legacy_keras() -> None:
    """Let `tf.keras` be Keras 3 in a worker of Ray Train, which sets `TF_USE_LEGACY_KERAS` on each of them.

    TensorFlow reads the variable when `tf.keras` is first used, and a process that is started from here inherits it.
    """
    if "ray.train" in sys.modules and os.environ.get("TF_CONFIG"):
        os.environ.pop("TF_USE_LEGACY_KERAS", None)


def expect_cluster(workers: int, timeout: float, heartbeat: float) -> None:
    """Tell TensorFlow, before it starts, how long to wait for the workers and for signs of their life.

    Args:
        workers: How many workers there are.
        timeout: Seconds until all must have joined.
        heartbeat: Seconds without a sign of life after which a worker is lost.
    """
    # The list is a field of a message, which makes its entries itself.
    jobs = tf.compat.v1.ConfigProto.Experimental().coordination_config.coordinated_job_list
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=int(timeout * 1000),
        heartbeat_timeout_in_ms=int(heartbeat * 1000),
        coordinated_jobs=[jobs.add(name="worker", num_tasks=workers)],
    )


def abort_collectives(message: str) -> None:
    """End TensorFlow's collectives of this process that wait, and all to come, with an `UnavailableError`.

    Args:
        message: Its text.
    """
    context.context().abort_collective_ops(tf.errors.UNAVAILABLE, message)
