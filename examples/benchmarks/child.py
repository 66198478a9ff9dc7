"""The side of an arm's process: pin it, make it ready, then run steps when asked.

It imports no framework, so that an arm is pinned before TensorFlow or PyTorch counts the cores.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__: list[str] = []

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h

Run = Callable[[int], None]


def begin() -> dict[str, Any]:
    """Pin this process as its first argument says, tie its life to the parent's, and return that argument."""
    options: dict[str, Any] = json.loads(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != options["parent"]:  # It was gone before the call.
            os._exit(1)
        os.sched_setaffinity(0, options["cores"])
    # The parent hears answers alone: whatever a library prints goes to the log.
    options["answers"] = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return options


def serve(options: Mapping[str, Any], runs: Mapping[str, Run], facts: Mapping[str, Any], steps: int = 2) -> None:
    """Run each variant twice to trace it and warm it up, say so, then answer the parent until it closes the pipe.

    Args:
        options: What `begin` returned.
        runs: One function for each variant; it runs the number of steps that it is given.
        facts: Told to the parent with the first answer.
        steps: How many steps each of these first runs takes. Default 2.
    """
    for run in runs.values():
        run(steps)
        run(steps)
    _answer(options, dict(facts))
    rested = _clock()
    for line in sys.stdin:
        request = json.loads(line)
        start = _clock()
        runs[request["variant"]](request["steps"])
        end = _clock()
        ran = {key: end[key] - start[key] for key in start}
        _answer(options, {**ran, "idle": sum(start[key] - rested[key] for key in ("user", "system"))})
        rested = _clock()
    sys.stderr.flush()
    # TensorFlow and gloo would wait at exit for workers that wait for this one.
    os._exit(0)


def _clock() -> dict[str, float]:
    times = os.times()
    return {"seconds": time.perf_counter(), "user": times.user, "system": times.system}


def _answer(options: Mapping[str, Any], message: Mapping[str, Any]) -> None:
    options["answers"].write(json.dumps(message) + "\n")
    options["answers"].flush()
