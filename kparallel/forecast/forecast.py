"""The forecast of a model on a cluster: the best configurations, as text and picture."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kparallel.forecast.configuration import Configuration, Fixed
from kparallel.forecast.estimate import Estimate
from kparallel.forecast.hardware import Hardware
from kparallel.forecast.report import report
from kparallel.forecast.runnable import unsupported
from kparallel.forecast.scaling import Scaling, scaling
from kparallel.forecast.search import best, fastest
from kparallel.forecast.step import StepModel
from kparallel.forecast.work import Work
from kparallel.planning.units import Unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__: list[str] = []


@dataclass(frozen=True)
class Forecast:
    """What training a model will take on a cluster; `print` it, `plot` how it scales.

    Everything in it is predicted. Nothing was run.

    Args:
        model_name: The name of the model.
        hardware: The cluster.
        batch_size: The number of rows of a global batch.
        best: The fastest configurations that fit, the fastest first.
        runs: The fastest that kparallel can run today; None if none of them fits.
    """

    model_name: str
    hardware: Hardware
    batch_size: int
    best: tuple[Estimate, ...]
    runs: Estimate | None
    _model: StepModel = field(repr=False, compare=False)
    _fixed: Fixed = field(repr=False, compare=False)

    def scaling(self) -> Scaling:
        """Predict the throughput with 1, 2, 4, ... devices up to all: weak and strong scaling."""
        return scaling(self._model, self._fixed)

    def plot(self, path: str | Path | None = None) -> "Figure":
        """Draw the predicted throughput from one device to all, and what limits it where.

        Args:
            path: The file to write; its suffix determines the format, such as `"scaling.svg"`. Default: no file.

        Returns:
            The Matplotlib figure.

        Raises:
            ImportError: Matplotlib is not installed.
        """
        from kparallel.forecast.scaling_plot import draw

        return draw(self.model_name, self.hardware.name, self.scaling(), path)

    def __str__(self) -> str:
        return report(self.model_name, self.hardware, self.batch_size, self.best, self.runs)


def forecast(
    units: Sequence[Unit],
    hardware: Hardware,
    batch_size: int,
    *,
    model_name: str = "model",
    dtype: str = "float32",
    seconds_per_row: Sequence[float] | None = None,
    seconds_per_call: Sequence[float] | None = None,
    slots: float = 2,
    fixed: Fixed | None = None,
) -> Forecast:
    """Predict the best ways to train a model on a cluster.

    Args:
        units: The model's units.
        hardware: The cluster.
        batch_size: The number of rows of a global batch.
        model_name: The name of the model. Default `"model"`.
        dtype: The dtype in which it computes. Default `"float32"`.
        seconds_per_row: Seconds of the forward pass of each unit for one row on a device; default from FLOPs.
        seconds_per_call: Those seconds of each unit that do not grow with the rows; default those of loops over time.
        slots: The number of optimizer variables for each weight; default 2, as for Adam.
        fixed: What the user has fixed; default nothing.

    Raises:
        PlanError: No configuration fits the memory of the devices.

    Example:
        >>> from kparallel.forecast.hardware_file import read_hardware
        >>> names = [f"dense_{i}" for i in range(4)]
        >>> units = [Unit(name, 2e6, 10**6, 4 * 10**6, 4000, 4000, (), (name,)) for name in names]
        >>> forecast(units, read_hardware("8xA100"), 4096).best[0].time.bound_by
        'start'
    """
    fixed = Fixed() if fixed is None else fixed
    model = StepModel(Work(units, hardware, dtype, seconds_per_row, seconds_per_call), batch_size, slots)
    # The fastest first. What kparallel cannot run yet is listed too, with the fastest that it can below.
    found = tuple(best(model, fixed))

    def runs(configuration: Configuration) -> bool:
        return not unsupported(configuration, hardware)

    # The list of the best may hold none that runs, and a slower one may run; then it is searched for.
    running = next((each for each in found if runs(each.configuration)), None)
    if running is None:
        running = fastest(model, fixed, runs)
    return Forecast(model_name, hardware, batch_size, found, running, model, fixed)
