"""Run the cases of `disagreements.py` on one worker, one after another, and write what each came to.

kparallel run -n 2 --devices-per-worker 2 run_disagreements.py FOLDER [CASE...]
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from kparallel.cluster import read_cluster
from tests.cluster import disagreements
from tests.cluster.outcomes import Outcome, Worker, cases


def main(folder, *names):
    worker = Worker(read_cluster().index, Path(folder))
    outcomes = {}
    for name, case in cases(disagreements).items():
        if name in names or not names:
            outcomes[name] = Outcome.of(case, worker)
            print(name, outcomes[name].error, flush=True)
    (worker.folder / f"{worker.index}.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
