"""The single-machine table of exactness in one program over two machines with two devices each.

    kparallel run -n 2 --one-program --devices-per-worker 2 -m tests.cluster.one_program_table PLAN [NAME ...]

It prints a line for each case that the plan can take, and fails if one is not equal to plain Keras.
"""

import sys
import traceback

import keras

from tests.equality.cover import cross
from tests.equality.test_equality import check


def main(plan, *names):
    cases = [name for name, each in cross() if each == plan and (not names or name in names)]
    assert cases, (plan, names)
    failed = []
    for name in cases:
        try:
            check(name, plan)
        except Exception:  # The others go on.
            traceback.print_exc()
            failed.append(name)
        print(f"{'FAILED' if name in failed else 'equal'} {name}", flush=True)
        keras.backend.clear_session()
    sys.exit(f"{len(failed)} of {len(cases)} failed: {failed}" if failed else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
