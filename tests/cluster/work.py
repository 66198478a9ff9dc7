"""What every worker runs: all cases one after another, their numbers written to a file of its own.

Usage: python work.py FOLDER [CASE...], in a cluster; without one it writes the numbers of plain Keras on one device.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import keras
import numpy as np

import kparallel


def main(folder: Path, *names: str) -> None:
    from tests.cluster.cases import CASES  # Data are made there, which must not start TensorFlow before `init`.

    cluster = json.loads(os.environ.get("TF_CONFIG", "{}"))
    who = f"worker{cluster['task']['index']}" if cluster else "plain"
    for name in names or CASES:
        case = CASES[name]
        keras.utils.set_random_seed(1)
        keras.config.set_floatx(case.floatx)
        keras.config.set_dtype_policy(case.policy or case.floatx)
        model = case.build()
        if cluster:
            # Where a case names the number of replicas, it means one on each of two workers.
            replicas = {"replicas": len(cluster["cluster"]["worker"])} if "replicas" in case.options else {}
            model = kparallel.wrap(model, **case.options | replicas)
            carriers = {type(exchange).__name__ for exchange in model._kparallel.placement.communicators}
            assert carriers == {os.environ.get("CARRIER", "RingCommunicator")}
        numbers, texts = case.run(model)
        numbers |= {f"weight{index}": weight for index, weight in enumerate(model.get_weights())}
        numbers |= {f"slot{index}": slot.numpy() for index, slot in enumerate(model.optimizer.variables)}
        np.savez(folder / f"{name}.{who}.npz", **{key: np.asarray(value) for key, value in numbers.items()})
        print("done", name, texts, flush=True)
        keras.backend.clear_session()


if __name__ == "__main__":
    kparallel.init()
    main(Path(sys.argv[1]), *sys.argv[2:])
