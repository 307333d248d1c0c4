"""In: models with costs, a score and its interval. Out: a Figure of score against every cost."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.plots.style import BLUE, GREY, INK, new_figure, style, wrap

COSTS = {
    "milliseconds": "time for one image (ms, median)",
    "memory_mb": "memory of a process (MiB)",
    "megabytes": "file (MiB)",
    "multiply_adds": "multiply-adds (millions)",
}
"""Columns that can be shown, and what is written below them."""
KEY_INCHES = 2.3
PANEL_INCHES = (3.0, 2.5)
MARKER_INCHES = 0.15


def quality_against_cost(
    table: pd.DataFrame,
    fronts: Mapping[str, np.ndarray],
    label: str = "macro AUROC",
    *,
    phantom: bool = False,
) -> Figure:
    """Scores with their 95 % intervals, in one panel per cost of `fronts`.

    table: columns model, value, low, high, and the costs. fronts: cost -> (N,) whether a row is on
    the Pareto front, which is blue and joined by a line; what others beat in both is grey. Models
    are numbered by score, the best is 1; the names stand at the right. Markers that would cover one
    another are moved sideways. A row without a number is left out, and named below the names. Raises
    ValueError where none is left, and for an unknown cost.
    """
    if unknown := [cost for cost in fronts if cost not in COSTS]:
        raise ValueError(f"costs can be {', '.join(COSTS)}; got {', '.join(unknown)}")
    known = table[["value", *fronts]].notna().all(axis=1).to_numpy()
    order = np.argsort(-table["value"].to_numpy()[known], kind="stable")
    shown = table[known].iloc[order]
    if shown.empty:
        raise ValueError("the figure of quality against cost needs a model with both; got none")
    columns = min(2, len(fronts))
    rows = -(-len(fronts) // columns)
    height = max(3.0 * rows + 0.4, 0.19 * len(table) + 0.8)
    figure = new_figure(3.3 * columns + 0.6 + KEY_INCHES, height, phantom=phantom)
    grid = figure.add_gridspec(
        rows, columns + 1, width_ratios=[*[3.3] * columns, KEY_INCHES], wspace=0.04
    )
    first = None
    for place, (cost, front) in enumerate(fronts.items()):
        row, column = divmod(place, columns)
        axes = figure.add_subplot(grid[row, column], sharey=first)
        first = first or axes
        _panel(axes, shown, cost, front[known][order])
        if column == 0:
            axes.set_ylabel(f"{label}, 95 % interval")
        else:
            axes.tick_params(labelleft=False)
    _key(figure.add_subplot(grid[:, columns]), shown, list(table.loc[~known, "model"]))
    return figure


def _panel(axes: Axes, shown: pd.DataFrame, cost: str, front: np.ndarray) -> None:
    style(axes)
    right = 1.12 * shown[cost].max()
    span = shown["high"].max() - shown["low"].min()
    moved = right * _beside(shown[cost].to_numpy(float) / right, shown["value"].to_numpy() / span)
    line = shown[front].sort_values([cost, "value"])  # at their places, not where they were moved
    axes.plot(line[cost], line["value"], color=BLUE, linewidth=1, zorder=1)
    rows = zip(shown.itertuples(), moved, np.where(front, BLUE, GREY), strict=True)
    for number, (row, x, colour) in enumerate(rows, 1):
        axes.plot([x, x], [row.low, row.high], color=colour, linewidth=0.8, alpha=0.5, zorder=2)
        axes.scatter(x, row.value, 110, color=colour, edgecolor="white", zorder=3)
        axes.annotate(
            str(number),
            (x, row.value),
            color="white",
            fontsize=6.5,
            ha="center",
            va="center_baseline",
            zorder=4,
        )
    axes.set_xlim(0, right)
    axes.set_xlabel(COSTS[cost])


def _beside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return x (N,) of markers, moved where one would cover another; x and y are shares of a panel's
    width and height."""
    wide, high = (MARKER_INCHES / length for length in PANEL_INCHES)
    placed: list[tuple[float, float]] = []
    for one, level in zip(x, y, strict=True):
        steps = sorted(range(-len(x), len(x) + 1), key=lambda step: (abs(step), -step))
        places = (one + step * wide for step in steps)
        free = (
            place
            for place in places
            if wide / 2 <= place <= 1 - wide / 2
            and all(abs(place - a) >= wide * 0.99 or abs(level - b) >= high for a, b in placed)
        )
        placed.append((next(free, one), level))
    return np.array([place for place, _ in placed])


def _key(axes: Axes, shown: pd.DataFrame, left_out: list[str]) -> None:
    """Write the models' numbers and names, best first."""
    axes.axis("off")
    lines = [f"{number:>2}  {name}" for number, name in enumerate(shown["model"], 1)]
    lines += [
        "",
        "blue: no other model is both",
        "cheaper and better; what would",
        "overlap stands side by side",
    ]
    if left_out:
        lines += ["", *wrap(f"not measured: {', '.join(left_out)}", 32).splitlines()]
    axes.text(
        0, 1, "\n".join(lines), fontsize=8, color=INK, va="top", transform=axes.transAxes, linespacing=1.5
    )  # fmt: skip
