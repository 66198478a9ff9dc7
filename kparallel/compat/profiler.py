"""Profiles that TensorFlow's profiler writes."""

from collections.abc import Iterator

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

from kparallel.trace.events import Event

__all__: list[str] = []


def start_profiler(directory: str) -> None:
    """Start TensorFlow's profiler, without Python's own calls.

    Args:
        directory: Where it writes when it is stopped.

    Raises:
        tf.errors.AlreadyExistsError: It runs already.
    """
    options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=2, python_tracer_level=0)
    tf.profiler.experimental.start(directory, options)


def wall_clock(profile: bytes) -> int:
    """Return the wall clock in nanoseconds at moment 0 of `read_profile`."""
    space = XSpace.FromString(profile)
    begin = 0
    for plane in space.planes:
        names = {key: value.name for key, value in plane.stat_metadata.items()}
        for stat in plane.stats:
            if names.get(stat.metadata_id) == "profile_start_time":
                begin = int(stat.uint64_value or stat.int64_value)
    return begin + _origin(space)  # Where the profile does not tell its begin, its lines have the wall clock.


def _origin(space: XSpace) -> int:
    return min((line.timestamp_ns for plane in space.planes for line in plane.lines), default=0)


def read_profile(profile: bytes, prefix: str = "", later: float = 0.0) -> Iterator[Event]:
    """Yield the events of a profile that TensorFlow's profiler wrote, of the host and of GPUs, from moment 0 on.

    That of GPUs follows TensorFlow's documentation and has not run on GPUs yet.

    Args:
        profile: The content of a file that ends in `.xplane.pb`.
        prefix: Written before the names of threads, to tell those of other processes. Default nothing.
        later: Seconds that are added to all times. Default none.
    """
    space = XSpace.FromString(profile)
    origin = _origin(space)
    on_gpus = any(plane.name.startswith("/device:GPU:") for plane in space.planes)
    for plane in space.planes:
        names = {key: value.name for key, value in plane.event_metadata.items()}
        stats = {key: value.name for key, value in plane.stat_metadata.items()}
        for line in plane.lines:
            # Beside GPUs the host's threads only start operations; Python's own thread tells of steps and batches.
            if plane.name == "/host:CPU" and not (on_gpus and line.name.startswith("tf_")):
                thread = f"{prefix}{line.name}/{line.id}"
            elif plane.name.startswith("/device:GPU:"):
                thread = f"{prefix}{plane.name}/{line.name}"
            else:
                continue
            for event in line.events:
                # Lines begin in nanoseconds, events in picoseconds after their line's begin.
                start = later + ((line.timestamp_ns - origin) * 1000 + event.offset_ps) * 1e-12
                noted = {
                    stats.get(s.metadata_id, ""): s.str_value or stats.get(s.ref_value, "") or str(s.int64_value)
                    for s in event.stats
                }
                yield Event(thread, names[event.metadata_id], start, start + event.duration_ps * 1e-12, noted)
