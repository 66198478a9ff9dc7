"""Predicts the time of a step of some plans from the times of single layers on two devices with a core each."""

import json
import os
import sys

__all__: list[str] = []


def main() -> None:
    """Print a JSON object of seconds by plan; arguments: the work, and a JSON object of what `kparallel.plan` takes."""
    work, asked = sys.argv[1], json.loads(sys.argv[2])
    os.sched_setaffinity(0, [0, 1])
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    import kparallel

    kparallel.virtual_devices(2)
    from examples.benchmarks.keras_models import batches, build, compile_model
    from examples.benchmarks.work import WORK

    model = build(work)
    compile_model(model)
    # As many rows as a replica of two has: measured there, and at a quarter of them, microbatches lie in between.
    sample, _ = next(iter(batches(work, WORK[work].batch // 2)))
    told = {}
    for name, options in asked.items():
        shard = options.pop("shard", None)
        options.pop("balance", None)
        fixed = {"schedule": "1f1b", "recompute": "never", "stages": 1, "microbatches": 1, **options}
        made = kparallel.plan(model, balance="time", sample=sample, shard=shard, **fixed)
        told[name] = made.best[0].time.total
    print(json.dumps(told))


if __name__ == "__main__":
    main()
