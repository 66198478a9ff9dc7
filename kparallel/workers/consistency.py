"""Consistency checks between workers, made before a collective can wait forever for a worker that never joins."""

import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kparallel.comm.group import WorkerGroup
from kparallel.compat.data import are_arrays
from kparallel.errors import WorkerError
from kparallel.planning.plan import Plan
from kparallel.rendezvous import to_stderr

__all__: list[str] = []

_LONG = 10.0  # Seconds of waiting after which a worker reports it on stderr.
_HEAD = 32  # Rows of arrays that are compared.
_EQUAL = ("epochs", "initial_epoch", "validation_split", "validation_freq", "shuffle", "class_weight")


def require_same(group: WorkerGroup, facts: dict[str, str]) -> None:
    """Check that all workers run the same call with the same settings.

    Args:
        group: The workers.
        facts: The settings that must be equal: texts by their names. The first that differs is reported.

    Raises:
        WorkerError: A fact differs. The message has its name and its text on each worker.
    """
    with reminding(group, facts.get("call", "wrap")):
        doing = "begins fit, evaluate or predict" if "call" in facts else "wraps a model"
        answers = group.exchange(doing, facts)
    # In the order of the facts: the first difference is usually the cause of those after it.
    for name in facts:
        texts = [answer.get(name, "none") for answer in answers]
        if len(set(texts)) > 1:
            listed = "; ".join(f"worker {index}: {text}" for index, text in enumerate(texts))
            raise WorkerError(
                f"Expected the same {name} on all workers, received {listed}. Start every worker with the same "
                "script, options and packages."
            )


@contextmanager
def reminding(group: WorkerGroup, call: str) -> Iterator[None]:
    """Say on stderr that a worker waits for the others, if it does so for long.

    The exchange itself cannot time out: a worker may rightly come much later, as after reading its data.

    Args:
        group: The workers.
        call: What all of them have to call.
    """
    awaited = f"worker {group.worker_index} waits for the others in {call}, which all must call"
    reminder = threading.Timer(_LONG, to_stderr, [awaited])
    reminder.daemon = True
    reminder.start()
    try:
        yield
    finally:
        reminder.cancel()


def wrap_fingerprint(model: keras.Model, plan: Plan, loss_reduction: str, compression: str | None) -> dict[str, str]:
    """Return the facts of a model and its plan that must be equal on all workers.

    The names of layers may differ, since Keras numbers them for each process.

    Args:
        model: The model, before its variables are placed.
        plan: This worker's plan.
        loss_reduction: The argument of `kparallel.wrap`.
        compression: The argument `gradient_compression` of `kparallel.wrap`.
    """
    # By position, since names and paths are numbered by how many layers a process has made.
    weights = model.weights
    return {
        "class of the model": type(model).__name__,
        "number of weights": str(len(weights)) if model.built else "not built yet",
        **{f"weight {index}": f"{w.name} {tuple(w.shape)} {w.dtype}" for index, w in enumerate(weights)},
        "number of replicas on each": str(plan.mesh.replicas),
        "number of stages": str(plan.mesh.stages),
        # Two cuts of one model with equal numbers of parameters in each stage are taken for the same.
        "cut into stages, by parameters": str([group.parameters for group in plan.groups]),
        "number of microbatches": str(plan.microbatches),
        "schedule": plan.schedule if isinstance(plan.schedule, str) else str(plan.programs()),
        "recompute": plan.recompute,
        "shard": str(plan.shard),
        **({} if plan.shard is None else {"stages on one device": str(plan.lanes)}),
        "loss_reduction": loss_reduction,
        "gradient_compression": str(compression),
    }


def fit_fingerprint(model: keras.Model, arguments: dict[str, Any]) -> dict[str, str]:
    """Return the facts of a call of `fit` that must be equal, so that no worker leaves the loop before the others.

    Args:
        model: The wrapped model.
        arguments: The arguments of `fit`, with its defaults.
    """
    optimizer = getattr(model, "optimizer", None)
    return {
        "call": "fit",
        **{name: str(arguments[name]) for name in _EQUAL},
        "kind of data": "arrays" if are_arrays(arguments["x"]) else type(arguments["x"]).__name__,
        "presence of validation_data": str(arguments["validation_data"] is not None),
        "class of the optimizer": type(optimizer).__name__,
        "settings of the optimizer": _described(optimizer),
        "loss": _described(getattr(model, "loss", None)),
        "trainable weights": str(len(model.trainable_weights)),
        "steps_per_execution": str(getattr(model, "steps_per_execution", 1)),
    }


def call_fingerprint(name: str, x: Any, steps: int | None, length: float | None) -> dict[str, str]:
    """Return the facts of a call of `evaluate` or `predict` that must be equal on all workers.

    Args:
        name: The name of the method.
        x: The data.
        steps: The argument `steps`.
        length: The number of batches, or None if it is unknown.
    """
    facts = {"call": name, "kind of data": "arrays" if are_arrays(x) else type(x).__name__}
    if are_arrays(x):
        leaves = keras.tree.flatten(x)
        facts["number of rows"] = str(leaves[0].shape[0])
        # A few rows tell apart data that were shuffled or augmented on each worker, without reading all of them.
        heads = [np.asarray(leaf[:_HEAD]) for leaf in leaves if not _is_sparse(leaf)]
        facts["first rows"] = str([zlib.crc32(head.tobytes()) for head in heads if head.dtype != object])
    return facts | {"steps": str(steps), "number of batches": str(length)}


def _is_sparse(leaf: Any) -> bool:
    return hasattr(leaf, "tocsr") or isinstance(leaf, tf.SparseTensor | tf.RaggedTensor)


def _described(value: Any) -> str:
    """Return the settings of a Keras object, or of a structure of objects and functions, as text."""

    def described(leaf: Any) -> str:
        if hasattr(leaf, "get_config"):
            # The name has a counter of the process, such as adam_1.
            settings = {key: setting for key, setting in leaf.get_config().items() if key != "name"}
            return f"{type(leaf).__name__} {settings}"
        return getattr(leaf, "__name__", str(leaf))

    # The text of a function may contain its address, which differs between processes.
    return re.sub(r" at 0x[0-9a-f]+", "", str(keras.tree.map_structure(described, value)))
