"""An arm that makes a few steps and tells what they keep: by its actions' record, and by the process's peak memory."""

import resource
from typing import Any

from examples.benchmarks.child import begin, serve

__all__: list[str] = []


def main() -> None:
    """Make two steps; options: `work`, `batch`, `stages`, `wrap`: further arguments of `kparallel.wrap`.

    Facts: `peaks`, the bytes of each stage, and `grown`, by how many bytes the process's peak grew in the steps.
    """
    options = begin()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    import kparallel

    kparallel.virtual_devices(options["stages"])
    from examples.benchmarks.keras_models import batches, build, compile_model
    from examples.benchmarks.lifetimes import lifetimes

    model = kparallel.wrap(build(options["work"]), replicas=1, stages=options["stages"], **options["wrap"])
    compile_model(model)
    data = batches(options["work"], options["batch"]).take(1).cache()
    for _ in data:
        before = _peak()
    record = lifetimes(lambda: model.fit(data, verbose=0, shuffle=False))
    model.fit(data, verbose=0, shuffle=False)
    facts: dict[str, Any] = {
        "peaks": [record.peak(stage) for stage in range(options["stages"])],
        "grown": _peak() - before,
    }
    serve(options, {}, facts)


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
