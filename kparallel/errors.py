"""What can go wrong, by cause: every error kparallel raises on purpose derives from `KParallelError`.

KParallelError
├── BackendError   Keras does not run on TensorFlow
├── DeviceError    a device is unknown, repeated, of mixed type, or configured too late
├── PlanError      a plan does not fit the model or the machine
│   └── ScheduleError  a schedule breaks a law: an action missing, repeated, unknown or too early
├── ModelError     a model cannot be wrapped
├── ClusterError   TF_CONFIG is malformed, or the cluster is set up too late
├── DataError      a dataset cannot be used
├── CheckpointError  a checkpoint is broken, or of another model
└── WorkerError    another worker failed, stopped or disagrees
"""

__all__ = [
    "BackendError",
    "CheckpointError",
    "ClusterError",
    "DataError",
    "DeviceError",
    "KParallelError",
    "ModelError",
    "PlanError",
    "ScheduleError",
    "WorkerError",
]


class KParallelError(Exception):
    """Root of all errors that kparallel raises on purpose."""


class BackendError(KParallelError, RuntimeError):
    """Keras runs on another backend than TensorFlow."""


class DeviceError(KParallelError, ValueError):
    """A device is unknown, repeated, of mixed type, or configured too late."""


class PlanError(KParallelError, ValueError):
    """A plan does not fit the model or the machine."""


class ScheduleError(PlanError):
    """A schedule breaks a law: an action is missing, repeated, unknown or too early."""


class ModelError(KParallelError, ValueError):
    """A model cannot be wrapped."""


class ClusterError(KParallelError, ValueError):
    """`TF_CONFIG` is malformed, an address cannot be used, or the cluster is set up too late."""


class DataError(KParallelError, ValueError):
    """A dataset cannot be used."""


class CheckpointError(KParallelError, ValueError):
    """A checkpoint is broken, or of another model."""


class WorkerError(KParallelError, RuntimeError):
    """Another worker failed, stopped or disagrees."""
