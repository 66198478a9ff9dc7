"""Reports to Ray Train."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

__all__: list[str] = []


class RayReport(keras.callbacks.Callback):  # type: ignore[misc]
    """Report each epoch's logs to Ray Train, with the model as a checkpoint.

    For a training function of `ray.train.tensorflow.TensorflowTrainer`. Ray's own callback is for the Keras before 3.
    Ray waits for a report of every worker, so give the callback to `fit` on all of them, as it is by default. The chief
    alone saves: the checkpoint holds `model.keras`, a plain Keras file.

    Args:
        metrics: The names of the logs to report; all by default.
        checkpoint: Whether to save the model with each report; True by default.

    Raises:
        ImportError: When it is made: Ray Train is not installed.
        KeyError: At the end of an epoch: there is no such metric.
        RuntimeError: At the end of an epoch, from Ray: it trains outside of a training function of Ray's.

    Example:
        >>> def train_loop(config):
        ...     import kparallel
        ...     kparallel.init()
        ...     model = kparallel.wrap(build())
        ...     model.compile("adam", "mse")
        ...     model.fit(x, y, callbacks=[kparallel.callbacks.RayReport()])
    """

    def __init__(self, metrics: Sequence[str] | None = None, checkpoint: bool = True) -> None:
        super().__init__()
        try:
            import ray.train
        except ImportError as error:
            raise ImportError("RayReport needs Ray Train. Install it with: pip install 'kparallel[ray]'") from error
        self._train = ray.train
        self._metrics = metrics
        self._checkpoint = checkpoint

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Report, and wait until every worker has."""
        logs = logs or {}
        names = logs if self._metrics is None else self._metrics
        # On every worker: Ray waits until all have reported.
        metrics = {name: float(logs[name]) for name in names}
        with tempfile.TemporaryDirectory(prefix="kparallel-") as folder:
            self._train.report(metrics, checkpoint=self._saved(Path(folder)) if self._checkpoint else None)

    def _saved(self, folder: Path) -> Any:
        """Return a checkpoint with the model, or None on a worker that writes no files."""
        file = folder / "model.keras"
        self.model.save(file)
        return self._train.Checkpoint.from_directory(folder) if file.exists() else None
