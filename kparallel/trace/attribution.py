"""Attributes an operation to a part of the step by its name: the step opens a name scope around each part.

```text
0F3/PartitionedCall/dense/MatMul                      replica 0, action 0F3
gradient_tape/replica_1/1F0/mul/Mul                   replica 1, action 1B0: a tape names after the forward operation
replica_1/PartitionedCall/gradient_tape/0F0/mul/Mul   replica 1, action 0B0: the passes of all replicas are one function
1W0/PartitionedCall/gradient_tape/dense/MatMul        replica 0, action 1W0: a part of a split backward pass is called
replica_1/reduce0/Identity, replica_1/update/adam/…   replica 1, reduction of stage 0, update
update_function/adam/Sub_3                              a function's own: its call, replica_1/update/…, lasts as long
sharded_update/adam/update_1_5/Sub_3                  all replicas, each of which updates a part of the weights
```
"""

import re
from dataclasses import dataclass

from kparallel.schedule import BACKWARD, FORWARD, Action
from kparallel.schedule.action import TEXT

__all__: list[str] = []

_REPLICA = re.compile(r"(?:^|[/_])replica_(\d+)/")
_ACTION = re.compile(rf"(?:^|[/_]){TEXT}(?:/|$)")
_TAPE = re.compile(r"(?:^|/)gradient_tape(?:_\d+)?/")
_STAGE = re.compile(r"(?:Stateful)?PartitionedCall(?:_\d+)?(?:/|$)")
_REDUCE = re.compile(r"(?:^|/)reduce(\d+)(?:_\d+)?/")
_UPDATE = re.compile(r"(?:^|/)update(?:_\d+)?/")
_UPDATE_FUNCTION = re.compile(r"(?:^|/)update_function(?:_\d+)?/")
_SHARDED_UPDATE = re.compile(r"(?:^|/)sharded_update(?:_\d+)?/")
_COUNT = re.compile(r"(?:^|/)count(?:_\d+)?/")
_COLLECTIVE = re.compile(r"Collective|Nccl")


@dataclass(frozen=True)
class Owner:
    """The part of a step to which an operation belongs.

    Args:
        kind: `"action"`, `"reduction"`, `"update"` or `"other"`; `"inside"` for what the call around it stands for.
        replica: The index among this worker's replicas, or None if the operation belongs to all of them.
        stage: The index of the stage, or None if the operation belongs to all of them.
        action: The action, for the kind `"action"`.
        in_stage: Whether the operation belongs to the stage function itself. Stage functions of a lane run one at a
            time; other operations may overlap them.
    """

    kind: str
    replica: int | None = None
    stage: int | None = None
    action: Action | None = None
    in_stage: bool = False


def owner(name: str) -> Owner:
    """Return the part of a step to which an operation of a wrapped model belongs.

    Example:
        >>> str(owner("gradient_tape/replica_1/1F0/mul/Mul").action)
        '1B0'
        >>> owner("reduce2/AddN").stage
        2
    """
    match = _REPLICA.search(name)
    replica = int(match[1]) if match else 0
    action, reduce = _ACTION.search(name), _REDUCE.search(name)
    # The forward pass that counts denominators has the scopes of actions inside its own. It is no action of the
    # schedule.
    if _COUNT.search(name[: action.start() + 1] if action else name):
        return Owner("other", replica)
    # A layer may be called "reduce0". The name of its operations has the stage's call in between; the step's own scope
    # follows directly after the action's.
    if reduce and (action is None or reduce.start() <= action.end()):
        return Owner("reduction", replica if match else None, int(reduce[1]))
    if action:
        # A tape opens no scope of its own around an action; it puts its name in front of that of the forward
        # operation, within the call of a function that has both.
        kind = BACKWARD if _TAPE.search(name, 0, action.start() + 1) else action[2]
        stage, microbatch = int(action[1]), int(action[3])
        in_stage = _STAGE.match(name, action.end()) is not None
        return Owner("action", replica, stage, Action(stage, kind, microbatch), in_stage)
    if _UPDATE_FUNCTION.search(name):
        return Owner("inside")  # Of some replica: the name does not tell which one called the function.
    if _SHARDED_UPDATE.search(name):
        return Owner("update")
    return Owner("update" if _UPDATE.search(name) else "other", replica)


def plain_attribution(name: str, kind: str, optimizer: str) -> Owner:
    """Return the part of a step to which an operation of a plain model belongs; its names contain less.

    Args:
        name: The name of the operation.
        kind: The type of the operation.
        optimizer: The name of the optimizer, which is the name scope of its update.
    """
    match = _REPLICA.search(name)
    replica = int(match[1]) if match else 0
    if _COLLECTIVE.match(kind):
        return Owner("reduction", replica, 0)
    if optimizer and f"/{optimizer}/" in f"/{name}":
        return Owner("update", replica)
    # A plain model has no scopes of actions: one stage, one microbatch, forward and backward.
    backward = "/gradient_tape/" in f"/{name}" or "/gradients/" in name
    return Owner("action", replica, 0, Action(0, BACKWARD if backward else FORWARD, 0))
