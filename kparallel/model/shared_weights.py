"""Which models can be trained with `shard="weights"`."""

import keras

from kparallel.devices import has_several_machines
from kparallel.errors import PlanError
from kparallel.model.required_graph import required_graph
from kparallel.stage.graph import Graph

__all__: list[str] = []


def check_shared_weights(model: keras.Model, graph: Graph | None) -> None:
    """Check that the weights of a model can be shared out among the replicas.

    Args:
        model: The plain model.
        graph: Its graph, or None if it has none.

    Raises:
        PlanError: The model has no graph, so nothing tells when a call of its own reads which weight; or one program
            runs over several machines.
    """
    required_graph(graph, model, "for shard='weights'")
    if has_several_machines():
        raise PlanError(
            "Expected one machine or several workers for shard='weights', received one program over several machines, "
            "where weights do not travel for each action. Say shard='optimizer', or run without --one-program."
        )
