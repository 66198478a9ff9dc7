"""The table of steps of one's own, run by one worker, or by plain Keras.

    kparallel run -n 2 workers.py DIRECTORY PROGRAM...     python workers.py DIRECTORY PROGRAM...

What each program came to is pickled into the directory, in a file for each worker.
"""

import pickle
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from kparallel.cluster import read_cluster


def main(folder, *names):
    from tests.ownstep.measure import plain, wrapped  # After `init`: it starts TensorFlow.

    cluster = read_cluster()
    results = {}
    for name in names:
        results[name] = plain(name) if cluster is None else wrapped(name, None)
        print("done", name, flush=True)
    who = "plain" if cluster is None else str(cluster.index)
    (folder / f"{who}.pkl").write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
