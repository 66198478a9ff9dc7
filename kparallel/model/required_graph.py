"""The graph of a model, where a plan needs one."""

import keras

from kparallel.errors import PlanError
from kparallel.stage.graph import Graph

__all__: list[str] = []


def required_graph(graph: Graph | None, model: keras.Model, purpose: str) -> Graph:
    """Return the graph of a model.

    Raises:
        PlanError: It has none.
    """
    if graph is None:
        # A Sequential makes its graph when it learns the shape of its inputs.
        is_unbuilt = isinstance(model, keras.Sequential) and not model.built
        cause, way_out = (
            ("which has no weights yet", "Begin it with a keras.Input")
            if is_unbuilt
            else ("whose call is Python of its own", "Express it as keras.Model(inputs, outputs) of its layers")
        )
        raise PlanError(
            f"Expected a built Functional or Sequential model {purpose}, received {model.name!r} "
            f"({type(model).__name__}), {cause}. {way_out}, or use replicas only."
        )
    return graph
