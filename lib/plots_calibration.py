"""In: targets, and probabilities before and after calibration. Out: a matplotlib Figure of reliability diagrams."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from lib.metrics import checked
from lib.plots_data import BLUE, GREY, INK, new_figure, style
from lib.reliability import calibration_scores, reliability

MOST_BINS, LEAST_BINS, POSITIVES_A_BIN = 15, 3, 5
LOWEST = 1e-4
_Z = 1.959964  # 97.5 % of the normal distribution lie below
_LOOKS = (("before", GREY, 3.2), ("after calibration", BLUE, 4.2))  # label, colour, marker size


def reliability_diagrams(
    targets: np.ndarray, probs: np.ndarray, calibrated: np.ndarray, findings: Sequence[str], *, phantom: bool = False
) -> Figure:
    """How many images of a given probability have the finding: probs (N, F) before, calibrated (N, F) after.

    One small panel a finding of targets (N, F) with NaN. A point is a bin; bins hold equal counts of images, and are 3
    to 15, so that they have about five positive images each. The bar is the Wilson 95 % interval, which takes images
    as independent. Both axes are logarithmic, so that rare findings can be read, and end at a power of ten, not below
    `LOWEST`: what is lower stands there, and so does, as an open point, a bin without a positive image. ECE is that of
    `calibration_scores`, always from 15 bins. Raises ValueError as `evaluate`.
    """
    targets, probs = checked(targets, probs, findings)
    both = (probs, checked(targets, calibrated, findings)[1])
    errors = [100 * calibration_scores(targets, values, findings)["ece"] for values in both]
    positives = (targets == 1).sum(axis=0)
    numbers = np.clip(positives // POSITIVES_A_BIN, LEAST_BINS, MOST_BINS)
    bins = [[reliability(targets[:, j], values[:, j], number) for values in both] for j, number in enumerate(numbers)]
    floor = _floor(bins)
    columns = min(5, len(findings))
    rows = -(-len(findings) // columns)
    figure = new_figure(max(3.4, 2.1 * columns), 0.9 + 2.35 * rows, phantom=phantom)
    for j, axes in enumerate(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat):
        if j >= len(findings):
            axes.set_axis_off()
            continue
        _frame(axes, floor)
        axes.tick_params(labelbottom=j + columns >= len(findings))  # also above an empty panel
        axes.set_xlabel("mean probability (%)" if j // columns == rows - 1 else "", fontsize=9)
        axes.set_title(f"{findings[j]} (n={positives[j]:,})\n{_change(errors[0][j], errors[1][j])}", fontsize=8.5)
        for (predicted, observed, count), (_, colour, size) in zip(bins[j], _LOOKS, strict=True):
            _points(axes, predicted, observed, count, floor, colour, size)
    figure.supylabel("images with the finding (%)", fontsize=10)
    _legend(figure)
    return figure


def wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high ends (n,) of the 95 % intervals of shares (n,) of count (n,) independent images (Wilson 1927)."""
    middle = (share * count + _Z**2 / 2) / (count + _Z**2)
    reach = _Z * np.sqrt(share * (1 - share) * count + _Z**2 / 4) / (count + _Z**2)
    return middle - reach, middle + reach


def _points(
    axes: Axes, predicted: np.ndarray, observed: np.ndarray, count: np.ndarray, floor: float, colour: str, size: float
) -> None:
    """One series of bins: points, their intervals, and a line that stops at bins without a positive image."""
    low, high = wilson(observed, count)
    x, some = predicted.clip(min=floor), observed > 0
    axes.vlines(x, low.clip(min=floor), high, color=colour, linewidth=0.9, alpha=0.6)
    axes.plot(x, np.where(some, observed.clip(min=floor), np.nan), "-o", color=colour, linewidth=1, markersize=size)
    empty = x[~some]
    axes.plot(empty, np.full(len(empty), floor), "o", color=colour, markersize=size, markerfacecolor="white")


def _change(before: float, after: float) -> str:
    if np.isnan(before):
        return "not annotated"
    return f"ECE {before:.2f} %, unchanged" if before == after else f"ECE {before:.2f} to {after:.2f} %"


def _floor(bins: Sequence[Sequence[tuple]]) -> float:
    """The power of ten under all probabilities and shares of bins that are not 0, at least `LOWEST`, at most 0.1."""
    values = np.concatenate([[0.1], *(part for pair in bins for series in pair for part in series[:2])])
    return max(LOWEST, float(10 ** np.floor(np.log10(values[values > 0].min()))))


def _frame(axes: Axes, floor: float) -> None:
    ticks = 10.0 ** np.arange(round(np.log10(floor)), 1)
    axes.set(xscale="log", yscale="log", xlim=(floor / 1.25, 1.25), ylim=(floor / 1.25, 1.25))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [f"{100 * tick:g}" for tick in ticks])
        axis.set_minor_formatter(NullFormatter())
    axes.plot([floor, 1], [floor, 1], color=INK, linestyle=":", linewidth=1)
    style(axes)


def _legend(figure: Figure) -> None:
    handles = [Line2D([], [], color=colour, marker="o", markersize=size, label=label) for label, colour, size in _LOOKS]
    empty = {"color": BLUE, "marker": "o", "markersize": 4.2, "markerfacecolor": "white", "linewidth": 0}
    handles.append(Line2D([], [], **empty, label="no image has it"))
    handles.append(Line2D([], [], color=INK, linestyle=":", label="as it should be"))
    columns = 4 if figure.get_figwidth() > 6 else 2
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
