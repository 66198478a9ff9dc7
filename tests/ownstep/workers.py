"""The table of steps of one's own, and a loop of one's own, run by one worker, or by plain Keras.

    kparallel run -n 2 workers.py DIRECTORY PROGRAM...     python workers.py DIRECTORY PROGRAM...

What each program came to is pickled into the directory, in a file for each worker.
"""

import pickle
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from kparallel.cluster import read_cluster

# Loops with an optimizer that the workers share out, in one with the weights too; an optimizer that the model does not
# hold each of them updates alike.
LOOPS = {
    "loop_shared_out": {},
    "loop_shared_out_beside": {"held": False},
    "loop_shared_weights": {},
    "loop_shared_out_own": {},  # Of the user's own class; its update is looked into where slots are apart as well.
}


def main(folder, *names):
    import kparallel
    from tests.cluster.cases import Heavy
    from tests.ownstep.measure import plain, wrapped  # After `init`: it starts TensorFlow.
    from tests.ownstep.own_rows import trained_on_own_rows
    from tests.ownstep.resumed import RESUMED, trained_in_two_starts
    from tests.ownstep.test_loop import trained_in_a_loop

    cluster = read_cluster()

    def strategy(model, shard=None):
        return None if cluster is None else kparallel.wrap(model, shard=shard).distribute_strategy

    results = {}
    shards = {"shared_out": "optimizer", "shared_weights": "weights"}
    for name in names:
        shard, _, program = name.rpartition(":")
        if name == "loop":
            results[name] = trained_in_a_loop(strategy)
        elif name in LOOPS:
            held = "weights" if name == "loop_shared_weights" else "optimizer"
            own = {"kind": Heavy} if name.endswith("_own") else {}
            results[name] = trained_in_a_loop(partial(strategy, shard=held), **LOOPS[name], **own)
        elif name == "own_rows":
            results[name] = trained_on_own_rows(cluster)
        elif name in RESUMED:
            results[name] = trained_in_two_starts(name, cluster, folder)
        elif shard:
            results[name] = plain(program) if cluster is None else wrapped(program, None, shard=shards[shard])
        else:
            results[name] = plain(name) if cluster is None else wrapped(name, None)
        print("done", name, flush=True)
    who = "plain" if cluster is None else str(cluster.index)
    (folder / f"{who}.pkl").write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
