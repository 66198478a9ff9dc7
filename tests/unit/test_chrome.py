"""Recorded steps in the format of Chrome's tracing."""

import json

from kparallel.trace.chrome import chrome
from kparallel.trace.lanes import lanes_of
from tests.unit.made_steps import HYBRID, laid_out, step_of


def test_chrome_json_has_each_action_once_on_its_device():
    made = step_of(HYBRID, sums=0.5)
    trace = json.loads(json.dumps(chrome([made[0]] * 2, [laid_out(HYBRID, made[0])] * 2)))
    events = trace["traceEvents"]
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert processes[0] == "host" and processes[4] == "CPU:3: replica 1, stage 1"
    for process, lane in enumerate(lanes_of(HYBRID), start=1):
        for step in (0, 1):
            mine = [e for e in events if e["pid"] == process and e["ph"] == "X" and e["args"]["step"] == step]
            actions = [e for e in mine if e["tid"] == 0]
            assert [e["name"] for e in actions] == [str(action) for action in HYBRID.programs()[lane.index]]
            assert {e["cat"] for e in actions} == {"forward", "backward"} and all(e["dur"] > 0 for e in actions)
            assert {e["name"] for e in mine if e["tid"]} == {"reduction", "update"}
    assert [e["dur"] for e in events if e["name"] == "next batch"] == [1e6, 1e6]
