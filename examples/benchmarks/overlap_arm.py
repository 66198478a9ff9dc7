"""An arm that makes one step of a wrapped model and tells what of its reduction may overlap with the backward pass."""

from typing import Any

from examples.benchmarks.child import begin, serve

__all__: list[str] = []


def main() -> None:
    """Tell each cell's share; options: `work`, `cells`: (`"workers"` or `"devices"`, jit, arguments of `wrap`)."""
    options = begin()
    import kparallel

    kparallel.virtual_devices(4)
    serve(options, {}, {"shares": [_share(options["work"], *cell) for cell in options["cells"]]})


def _share(work: str, medium: str, jit: bool, wrap: dict[str, Any]) -> float:
    import kparallel
    from examples.benchmarks.executed import Nobody, early_share
    from examples.benchmarks.keras_models import batches, build, compile_model
    from kparallel.comm.ring_communicator import RingCommunicator
    from kparallel.comm.tf_collectives import TFCommunicator

    model = kparallel.wrap(build(work), replicas=2, **wrap)
    compile_model(model, jit=jit)
    layout, strategy = model._kparallel.layout, model._kparallel.strategy
    columns = [[row[s] for row in layout.rows] for s in range(len(layout.communicators))]
    # The workers' exchange, between two devices of one process.
    between = [RingCommunicator(column, Nobody(), TFCommunicator(column, strategy, 2, 0), 0) for column in columns]
    communicators = between if medium == "workers" else None
    data = batches(work, 16).take(1)
    return early_share(model, lambda: model.fit(data, verbose=0, shuffle=False), communicators)


if __name__ == "__main__":
    main()
