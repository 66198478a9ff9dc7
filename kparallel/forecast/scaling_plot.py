"""Predicted throughput over the number of devices as a picture; the colour of a point says what limits it there."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kparallel.forecast.estimate import TERMS, Estimate
from kparallel.forecast.scaling import Scaling
from kparallel.planning.plot_style import IDLE, TEXT_COLOR, color, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__: list[str] = []

_TITLES = {"weak": "weak scaling: the batch grows with the devices", "strong": "strong scaling: always the same batch"}


def draw(model_name: str, cluster_name: str, scaling: Scaling, path: str | Path | None = None) -> "Figure":
    """Draw weak and strong scaling side by side, and save the picture if a path is given.

    Args:
        model_name, cluster_name: For the title.
        scaling: What was predicted.
        path: The file to write; its suffix determines the format. Default: no file.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    figure = new_figure("Forecast.plot", 11, 4.8, layout="constrained")
    figure.suptitle(f"{model_name} on {cluster_name}: predicted throughput", fontweight="bold", color=TEXT_COLOR)
    for axes, (name, found) in zip(
        figure.subplots(1, 2), (("weak", scaling.weak), ("strong", scaling.strong)), strict=True
    ):
        _draw(axes, _TITLES[name], found, scaling.tried)
    return save(figure, path)


def _draw(axes: "Axes", title: str, found: dict[int, Estimate], tried: Sequence[int]) -> None:
    axes.set_title(title, fontsize=10, color=TEXT_COLOR)
    axes.set_xlabel("devices")
    axes.set_ylabel("rows a second")
    if not found:
        axes.text(0.5, 0.5, "does not fit", ha="center", transform=axes.transAxes)
        return
    devices = sorted(found)
    rates = [found[each].rows_per_second for each in devices]
    # As if each device were as fast as with the smallest number of devices that fits the model.
    ideal = [rates[0] * each / devices[0] for each in devices]
    axes.plot(devices, ideal, "--", color="#999999", linewidth=1, label=f"as efficient as on {devices[0]}")
    axes.plot(devices, rates, "-", color="#999999", linewidth=1)
    # A series for each term, so that it gets a colour and an entry in the legend.
    for index, term in enumerate(TERMS):
        bound = [(each, rate) for each, rate in zip(devices, rates, strict=True) if found[each].time.limited_by == term]
        if bound:
            axes.plot(*zip(*bound, strict=True), "o", color=color(index), label=f"limited by {term}")
    for each, rate, best in zip(devices, rates, ideal, strict=True):
        axes.annotate(f"{rate / best:.0%}", (each, rate), (0, -13), textcoords="offset points", fontsize=7, ha="center")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(tried, [f"{each:,}" for each in tried], fontsize=8)
    # Half a power of two to the left of the first point, on the logarithmic axis.
    if tried[0] < devices[0]:
        axes.axvspan(tried[0], devices[0] / 2**0.5, color=IDLE, linewidth=0)
        axes.text(tried[0] * 1.1, rates[-1], "does not fit", fontsize=8, va="top", color=TEXT_COLOR)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
