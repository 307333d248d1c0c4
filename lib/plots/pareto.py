"""In: arms with a cost, a score and its interval. Out: a Figure of score against cost."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.plots.style import BLUE, GREY, INK, new_figure, style, wrap

LEAST_AREA, MOST_AREA = 30.0, 400.0  # square points


def quality_against_cost(
    table: pd.DataFrame, front: np.ndarray, label: str = "macro AUROC", *, phantom: bool = False
) -> Figure:
    """Scores with their 95 % intervals against latency; the area of a marker is the file's size.

    table: columns model, value, low, high, milliseconds, megabytes. front: (N,) whether a row is on
    the Pareto front, which is blue and joined by a line; what others beat in both is grey. A row
    without a number is left out, and named above the figure. Raises ValueError where none is left.
    """
    known = table[["value", "milliseconds", "megabytes"]].notna().all(axis=1).to_numpy()
    shown, best = table[known], front[known]
    if shown.empty:
        raise ValueError("the figure of quality against cost needs a model with both; got none")
    figure = new_figure(7.2, 4.6, phantom=phantom)
    axes = figure.subplots()
    style(axes)
    areas = _areas(shown["megabytes"].to_numpy(float))
    colours = np.where(best, BLUE, GREY)
    line = shown[best].sort_values("milliseconds")
    axes.plot(line["milliseconds"], line["value"], color=BLUE, linewidth=1, zorder=1)
    for row, area, colour in zip(shown.itertuples(), areas, colours, strict=True):
        axes.plot(
            [row.milliseconds] * 2, [row.low, row.high], color=colour, linewidth=1.4, zorder=2
        )
        axes.scatter(row.milliseconds, row.value, area, color=colour, edgecolor="white", zorder=3)
    _name_markers(axes, shown)
    axes.set_xlim(0, 1.08 * shown["milliseconds"].max())
    axes.set_xlabel("one film on two threads of a CPU (ms, median)")
    axes.set_ylabel(f"{label}, 95 % interval")
    left = list(table.loc[~known, "model"])
    note = "blue: no other model is both faster and better; marker area: file size"
    note += f"; not measured: {', '.join(left)}" if left else ""
    axes.set_title(wrap(note, 100), fontsize=8, color=GREY, loc="left")
    return figure


def _name_markers(axes: Axes, shown: pd.DataFrame) -> None:
    """Write the names in a column at the right, in the order of the scores, each with a line to its
    marker: networks of one width take the same time, and names beside them would overlap."""
    ordered = shown.sort_values("value")
    for place, row in enumerate(ordered.itertuples()):
        axes.annotate(
            f"{row.model} ({row.megabytes:.1f} MB)",
            (row.milliseconds, row.value),
            xytext=(1.06, (place + 0.5) / len(ordered)),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=INK,
            arrowprops={"arrowstyle": "-", "color": "#BBBBBB", "linewidth": 0.6, "zorder": 0},
        )


def _areas(megabytes: np.ndarray) -> np.ndarray:
    """Marker areas in proportion to the size of the files, the largest MOST_AREA."""
    return np.maximum(LEAST_AREA, MOST_AREA * megabytes / megabytes.max())
