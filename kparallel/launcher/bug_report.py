"""What a report of a bug needs to say about a machine; it loads no TensorFlow."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import kparallel
from kparallel.errors import KParallelError
from kparallel.launcher.environment import scheduled_cluster
from kparallel.launcher.gpus import visible_gpus

__all__: list[str] = []

_PACKAGES = ("tensorflow", "keras", "numpy", "h5py", "tensorflow-datasets")
_PREFIXES = (
    "KPARALLEL_",
    "TF_",
    "KERAS_",
    "CUDA_",
    "NCCL_",
    "XLA_",
    "OMP_",
    "SLURM_",
    "OMPI_COMM_",
    "PMIX_",
    "SM_",
    "JOB_",
)
_SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD", "CREDENTIAL")


def bug_report(environment: Mapping[str, str]) -> str:
    """Return the lines: versions, machine, cluster, and the variables that matter; secrets are left out.

    Args:
        environment: Environment variables.

    Example:
        >>> print(bug_report({"KPARALLEL_TOKEN": "abc", "HOME": "/root"}).splitlines()[-1])
        KPARALLEL_TOKEN      (set)
    """
    facts = {"kparallel": kparallel.__version__, "python": sys.version.split()[0]}
    facts |= {name: _version(name) for name in _PACKAGES}
    facts |= {
        "system": platform.platform(),
        "processors": f"{os.cpu_count()}, of which this process may use {len(os.sched_getaffinity(0))}",
        "memory": _memory(),
        "GPUs": ", ".join(visible_gpus(environment)) or "none",
        "cluster": _cluster(environment),
    }
    for name in sorted(environment):
        if name.startswith(_PREFIXES):
            # A report is pasted into public places. That a secret is set is all that helps.
            facts[name] = "(set)" if any(word in name for word in _SECRET) else environment[name]
    width = max(20, *map(len, facts))
    return "\n".join(f"{name:<{width}} {value}" for name, value in facts.items())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"


def _cluster(environment: Mapping[str, str]) -> str:
    try:
        cluster = scheduled_cluster(environment)
    except KParallelError as error:
        return f"{type(error).__name__}: {error}"
    return "none" if cluster is None else f"worker {cluster.index} of {json.dumps(cluster.workers)}"
