"""What must be equal on all workers, compared before a collective would wait for what never comes."""

import json
from typing import Any

import keras

from kparallel.collective.talk import Talk
from kparallel.errors import WorkerError
from kparallel.planning.plan import Plan

__all__: list[str] = []


def check_same_model(talk: Talk, facts: dict[str, str]) -> None:
    """Make sure that all workers run the same thing, before the first step waits for them.

    Args:
        talk: How workers talk.
        facts: Name and text of what must be equal, the most telling first.

    Raises:
        WorkerError: They differ; the message names the workers, the first fact that differs and its texts.
    """
    answers = [json.loads(answer) for answer in talk.gather(json.dumps(facts))]
    for name in facts:
        texts = [answer.get(name, "none") for answer in answers]
        if len(set(texts)) > 1:
            listed = "; ".join(f"worker {index}: {text}" for index, text in enumerate(texts))
            raise WorkerError(
                f"Expected the same {name} on all workers, received {listed}. Start every worker with the same "
                "script, options and packages."
            )


def facts_of(model: keras.Model, plan: Plan, loss_reduction: str, compression: str | None) -> dict[str, str]:
    """Return what of a model and its plan must be equal; names may differ, Keras numbers them as it goes.

    Args:
        model: The model, before its variables are placed.
        plan: The plan that this worker follows.
        loss_reduction: As `kparallel.wrap` takes it.
        compression: Its `gradient_compression`.
    """
    weights = model.weights
    return {
        "class of the model": type(model).__name__,
        "number of weights": str(len(weights)) if model.built else "not built yet",
        **{f"weight {index}": f"{w.name} {tuple(w.shape)} {w.dtype}" for index, w in enumerate(weights)},
        "number of replicas on each": str(plan.mesh.replicas),
        "number of stages": str(plan.mesh.stages),
        "cut into stages, by parameters": str([group.parameters for group in plan.groups]),
        "number of microbatches": str(plan.microbatches),
        "schedule": plan.schedule if isinstance(plan.schedule, str) else str(plan.programs()),
        "recompute": plan.recompute,
        "loss_reduction": loss_reduction,
        "gradient_compression": str(compression),
    }


def facts_of_fit(model: keras.Model, given: dict[str, Any]) -> dict[str, str]:
    """Return what of a call of `fit` must be equal, so that no worker leaves the loop before the others.

    Args:
        model: The wrapped model.
        given: The arguments of `fit`, defaults filled in.
    """
    optimizer = getattr(model, "optimizer", None)
    return {
        **{name: str(given[name]) for name in ("epochs", "initial_epoch", "validation_split", "validation_freq")},
        "presence of validation_data": str(given["validation_data"] is not None),
        "class of the optimizer": type(optimizer).__name__,
        "steps_per_execution": str(getattr(model, "steps_per_execution", 1)),
    }
