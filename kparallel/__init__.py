"""Train Keras models over many devices: wrap a model, then `fit`, and get what plain Keras would compute.

Importing kparallel has no side effects and does not import TensorFlow; names load on first use (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kparallel import callbacks, errors, schedule
    from kparallel.comm.join import init
    from kparallel.data.shards import read_records, read_tfds
    from kparallel.devices import virtual_devices
    from kparallel.launcher.launch import launch
    from kparallel.mesh import Mesh
    from kparallel.model.parallel_model import ParallelModel, unwrap
    from kparallel.model.wrap import plan, wrap
    from kparallel.ownstep.collectives import all_reduce, gather
    from kparallel.planning.plan import Plan
    from kparallel.workers.variables import bring_together

__version__ = "0.1.0.dev0"
__all__ = [
    "Mesh",
    "ParallelModel",
    "Plan",
    "all_reduce",
    "bring_together",
    "callbacks",
    "errors",
    "gather",
    "init",
    "launch",
    "plan",
    "read_records",
    "read_tfds",
    "schedule",
    "unwrap",
    "virtual_devices",
    "wrap",
]

# Where each public name is defined. A name is loaded when it is first used (PEP 562), so that `import kparallel` and
# `kparallel --help` do not load TensorFlow. Type checkers read the imports above instead.
_HOMES = {
    "Mesh": "kparallel.mesh",
    "ParallelModel": "kparallel.model.parallel_model",
    "Plan": "kparallel.planning.plan",
    "all_reduce": "kparallel.ownstep.collectives",
    "bring_together": "kparallel.workers.variables",
    "gather": "kparallel.ownstep.collectives",
    "init": "kparallel.comm.join",
    "launch": "kparallel.launcher.launch",
    "plan": "kparallel.model.wrap",
    "read_records": "kparallel.data.shards",
    "read_tfds": "kparallel.data.shards",
    "unwrap": "kparallel.model.parallel_model",
    "virtual_devices": "kparallel.devices",
    "wrap": "kparallel.model.wrap",
}


def __getattr__(name: str) -> Any:
    if name in ("callbacks", "errors", "schedule"):
        return import_module(f"kparallel.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'kparallel' has no attribute {name!r}")


def __dir__() -> list[str]:
    # Completion in a notebook asks here: a name that is not loaded yet is no global.
    return sorted([*globals(), *__all__])
