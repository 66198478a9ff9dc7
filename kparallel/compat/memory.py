"""The memory of a GPU as TensorFlow sees it."""

from tensorflow.python.client import device_lib

__all__: list[str] = []


def gpu_memory() -> float | None:
    """Return the bytes that TensorFlow may use on the GPU that has least, None without a GPU."""
    limits = [device.memory_limit for device in device_lib.list_local_devices() if device.device_type == "GPU"]
    return float(min(limits)) if limits else None
