"""The colours and shapes of all plots."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kparallel.schedule import BACKWARD, FORWARD, WEIGHT, Action, Programs, splits_backward

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

__all__: list[str] = []

# Colours that colour-blind readers can distinguish (Okabe and Ito). With more stages they repeat.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7A6FBE", "#8C8C4A")
TEXT_COLOR = "#222222"
IDLE = "#E9E9E9"
# An earlier stage waits for `B`, which is the darkest; for `W` nobody does.
_ALPHA = {FORWARD: 0.4, BACKWARD: 0.95, WEIGHT: 0.65}


def new_figure(subject: str, width: float, height: float, **options: Any) -> "Figure":
    """Return an empty figure.

    Args:
        subject: What draws it, for the error.
        width, height: In inches.
        options: Further ones of Matplotlib's `Figure`.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"{subject} needs Matplotlib. Install it with: pip install 'kparallel[plots]'") from error
    return Figure(figsize=(width, height), **options)


def save(figure: "Figure", path: str | Path | None) -> "Figure":
    """Save a figure if a path is given, in the format that its suffix determines; return the figure."""
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def color(stage: int) -> str:
    """Return a stage's colour."""
    return _COLORS[stage % len(_COLORS)]


def text_color(color: str) -> str:
    """Return a text colour that is legible on a background colour."""
    red, green, blue = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    # The weights are those of perceived brightness: green counts most, blue least.
    return TEXT_COLOR if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"


def rectangle(
    x: float, y: float, width: float, height: float, color: str, alpha: float, edge: float = 0.8
) -> "Rectangle":
    """Return a filled box with a white edge of `edge` points."""
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, facecolor=color, alpha=alpha, edgecolor="white", linewidth=edge)


def explained(programs: Programs) -> str:
    """Return what the labels of the actions of a schedule mean."""
    parts = "B0: gradients of inputs, W0: of weights" if splits_backward(programs) else "B0: backward"
    return f"F0: microbatch 0 forward, {parts}"


def draw_action(axes: "Axes", action: Action, start: float, length: float, lane: int, inches: float) -> None:
    """Draw an action as a box on its lane, with its name if that fits.

    Args:
        axes: The axes; time runs to the right, lanes downwards.
        action: The action.
        start: The start time, in the unit of the axes.
        length: The duration.
        lane: The index of the lane.
        inches: The width of the box on paper.
    """
    stage_color, dark = color(action.stage), action.kind == BACKWARD
    # White below, because the stage's colour is translucent and the lane's grey would shine through.
    axes.add_patch(rectangle(start, lane - 0.42, length, 0.84, "white", 1.0))
    axes.add_patch(rectangle(start, lane - 0.42, length, 0.84, stage_color, _ALPHA[action.kind]))
    text = f"{action.kind}{action.microbatch}"
    # 72 points are an inch, and a character is about three quarters as wide as high.
    points = min(9.0, inches * 72 / (0.75 * len(text)))
    if points >= 5:
        label_color = text_color(stage_color) if dark else TEXT_COLOR
        axes.text(start + length / 2, lane, text, ha="center", va="center", fontsize=points, color=label_color)
