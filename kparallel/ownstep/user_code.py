"""Where in the user's code something stands."""

import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import kparallel

__all__: list[str] = []


def line_of(stack: Iterable[Any] | None = None) -> str:
    """Return ` at FILE:LINE` of the innermost frame of the user's own code; nothing if there is none.

    Args:
        stack: The frames to look at, the outermost first; default those of the caller.
    """
    libraries = [str(Path(str(module.__file__)).parent) for module in (keras, tf, kparallel)]
    libraries.append(sysconfig.get_path("stdlib"))
    frames = list(traceback.extract_stack() if stack is None else stack)
    for frame in reversed(frames):
        inside = any(frame.filename.startswith(library) for library in libraries)
        if not inside and not frame.filename.startswith("<") and "__autograph_generated_file" not in frame.filename:
            return f" at {frame.filename}:{frame.lineno}"
    return ""
