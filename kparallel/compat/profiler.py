"""Profiles that TensorFlow's profiler writes."""

from collections.abc import Iterator
from pathlib import Path

from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

from kparallel.trace.events import Event

__all__: list[str] = []


def read_profile(path: Path) -> Iterator[Event]:
    """Yield the events of a profile that TensorFlow's profiler wrote, of the host and of GPUs.

    That of GPUs follows TensorFlow's documentation and has not run on GPUs yet.

    Args:
        path: A file that ends in `.xplane.pb`.
    """
    space = XSpace.FromString(path.read_bytes())
    origin = min((line.timestamp_ns for plane in space.planes for line in plane.lines), default=0)
    on_gpus = any(plane.name.startswith("/device:GPU:") for plane in space.planes)
    for plane in space.planes:
        names = {key: value.name for key, value in plane.event_metadata.items()}
        stats = {key: value.name for key, value in plane.stat_metadata.items()}
        for line in plane.lines:
            # Beside GPUs the host's threads only start operations; Python's own thread tells of steps and batches.
            if plane.name == "/host:CPU" and not (on_gpus and line.name.startswith("tf_")):
                thread = f"{line.name}/{line.id}"
            elif plane.name.startswith("/device:GPU:"):
                thread = f"{plane.name}/{line.name}"
            else:
                continue
            for event in line.events:
                # Lines begin in nanoseconds, events in picoseconds after their line's begin.
                start = ((line.timestamp_ns - origin) * 1000 + event.offset_ps) * 1e-12
                noted = {
                    stats.get(s.metadata_id, ""): s.str_value or stats.get(s.ref_value, "") or str(s.int64_value)
                    for s in event.stats
                }
                yield Event(thread, names[event.metadata_id], start, start + event.duration_ps * 1e-12, noted)
