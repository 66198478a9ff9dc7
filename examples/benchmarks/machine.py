"""What the figures were measured on."""

import os
import platform
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path

from examples.benchmarks.arms import ALLOCATOR

__all__: list[str] = []


def facts(torch_python: str | None) -> dict[str, str]:
    """Return the machine, the versions and the conditions that are the same for all arms."""
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {version(package)}" for name, package in (("TensorFlow", "tensorflow"), ("Keras", "keras"))]
    if torch_python is not None:
        versions.append(f"PyTorch {_ask(torch_python, 'import torch; print(torch.__version__)')}")
    settings = ", ".join(f"`{name}={value}`" for name, value in ALLOCATOR.items())
    return {
        "date": date.today().isoformat(),
        "CPU": f"{_cpu()}, {len(os.sched_getaffinity(0))} cores",
        "system": f"{platform.system()} {platform.machine()}, {_memory()} of memory",
        "versions": ", ".join(versions),
        "allocator": f"{' '.join(platform.libc_ver())} malloc, {settings} in all arms, unless a row says otherwise",
        "threads": "one intra-op thread in all arms; cores pinned with `os.sched_setaffinity`",
    }


def finds(python: str, module: str) -> bool:
    """Tell whether an interpreter can import a module."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", code], timeout=60).returncode == 0


def _ask(python: str, code: str) -> str:
    return subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def _cpu() -> str:
    """Return the model's name, with family and model number where the name says little."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    return f"{fields['model name']} (family {fields.get('cpu family')}, model {fields.get('model')})"


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
