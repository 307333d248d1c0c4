"""In: histories, targets and probabilities. Out: training, ROC, precision-recall and reliability
curves."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from lib.metrics.calibration import calibration_scores, reliability
from lib.metrics.scores import HALF, auroc, average_precision, checked, operating_points
from lib.plots.style import BLUE, GREY, INK, ORANGE, new_figure, style, wrap

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#DDCC77")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)))


def training_curves(histories: Mapping[str, pd.DataFrame], *, phantom: bool = False) -> Figure:
    """Loss, validation AUROC and average precision, and learning rate per epoch, one line per run
    {name: history}.

    A history has the columns epoch, train_loss, val_loss, val_auroc, val_average_precision and lr.
    """
    rows = -(-len(histories) // 3)
    figure = new_figure(9, 5.4 + 0.2 * rows, phantom=phantom)
    loss, area, precision, rate = figure.subplots(2, 2, sharex=True).flat
    for i, (name, history) in enumerate(histories.items()):
        look = {
            "color": LINES[i % len(LINES)],
            "linestyle": DASHES[i // len(LINES) % len(DASHES)],
            "markersize": 3,
        }
        epoch = history["epoch"]
        loss.plot(epoch, history["train_loss"], **look, alpha=0.45, linewidth=1, marker=".")
        loss.plot(epoch, history["val_loss"], **look, marker="o")
        area.plot(epoch, history["val_auroc"], **look, marker="o", label=wrap(name, 40))
        precision.plot(epoch, history["val_average_precision"], **look, marker="o")
        rate.plot(epoch, history["lr"], **look, marker="o")
    loss.set_ylabel("loss\n(binary cross-entropy)")
    loss.legend(
        handles=[
            Line2D([], [], color=INK, marker="o", markersize=3, label="validation"),
            Line2D(
                [],
                [],
                color=INK,
                marker=".",
                markersize=3,
                alpha=0.45,
                linewidth=1,
                label="training",
            ),
        ],
        fontsize=8,
        frameon=False,
    )
    area.set_ylabel("macro AUROC\n(validation)")
    precision.set_ylabel("macro average precision\n(validation)")
    rate.set_ylabel("learning rate")
    for axes in (loss, area, precision, rate):
        style(axes)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    precision.set_xlabel("epoch")
    rate.set_xlabel("epoch")
    look = {"ncols": 3, "fontsize": 8, "frameon": False, "handlelength": 4}
    figure.legend(*area.get_legend_handles_labels(), loc="outside lower center", **look)
    return figure


def roc_curves(
    targets: np.ndarray, probs: np.ndarray, findings: Sequence[str], *, phantom: bool = False
) -> Figure:
    """The ROC curve of each finding from targets (N, F) with NaN and probs (N, F), one small panel
    each."""
    figure, panels = _panels(targets, findings, "1 - specificity", "sensitivity", phantom)
    for axes, y, p in zip(panels, np.asarray(targets).T, np.asarray(probs).T, strict=True):
        _, tp, fp = operating_points(y, p)
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
        if np.isfinite(area := auroc(y, p)):
            axes.plot(np.append(0, fp / fp[-1]), np.append(0, tp / tp[-1]), color=BLUE)
        _note(axes, "AUROC", area, 0.97, 0.05)
    return figure


def precision_recall_curves(
    targets: np.ndarray, probs: np.ndarray, findings: Sequence[str], *, phantom: bool = False
) -> Figure:
    """Precision against recall of each finding, one small panel each; the dotted line is its
    prevalence (chance)."""
    figure, panels = _panels(targets, findings, "recall (sensitivity)", "precision", phantom)
    for axes, y, p in zip(panels, np.asarray(targets).T, np.asarray(probs).T, strict=True):
        _, tp, fp = operating_points(y, p)
        if np.isfinite(score := average_precision(y, p)):
            axes.axhline(tp[-1] / (tp[-1] + fp[-1]), color=GREY, linestyle=":", linewidth=1)
            precision = tp / (tp + fp)
            recall, precision = np.append(0, tp / tp[-1]), np.append(precision[0], precision)
            axes.plot(recall, precision, drawstyle="steps-pre", color=BLUE)
        _note(axes, "AP", score, 0.97, 0.9)
    return figure


def accuracy_vs_all_negative(metrics: pd.DataFrame, *, phantom: bool = False) -> Figure:
    """Accuracy of each finding beside that of answering "no" to every image, from the table of
    `metrics.evaluate`."""
    names = list(metrics["finding"])
    figure = new_figure(6.4, 1.5 + 0.27 * len(names), phantom=phantom)
    axes = figure.subplots()
    floor, accuracy = 100 * metrics["accuracy_all_negative"], 100 * metrics["accuracy"]
    rows = np.arange(len(names))
    axes.hlines(rows, floor, accuracy, color=np.where(accuracy >= floor, BLUE, ORANGE), linewidth=2)
    axes.scatter(
        floor,
        rows,
        s=70,
        facecolor="white",
        edgecolor=INK,
        zorder=3,
        label='answering "no" to every image',
    )
    better = (accuracy >= floor).to_numpy()
    for which, colour, label in (
        (better, BLUE, "model, at least as good"),
        ((accuracy < floor).to_numpy(), ORANGE, "model, worse"),
    ):
        if which.any():
            axes.scatter(accuracy[which], rows[which], s=34, color=colour, zorder=4, label=label)
    for row in rows[metrics["accuracy"].isna()]:
        axes.text(
            0.5,
            row,
            "not annotated",
            transform=axes.get_yaxis_transform(),
            ha="center",
            va="center",
            color=GREY,
        )
    axes.set_yticks(rows, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("accuracy (% of images)")
    style(axes, grid="x")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _panels(
    targets: np.ndarray, findings: Sequence[str], x: str, y: str, phantom: bool
) -> tuple[Figure, Sequence[Axes]]:
    """One square panel per finding, titled with its name and number of positive images."""
    columns = min(5, len(findings))
    rows = -(-len(findings) // columns)
    figure = new_figure(max(3.2, 2.1 * columns), 0.6 + 2.2 * rows, phantom=phantom)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for i, axes in enumerate(grid.flat):
        if i >= len(findings):
            axes.set_axis_off()
            continue
        style(axes)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), yticks=(0, 0.5, 1))
        axes.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
        axes.tick_params(labelbottom=i + columns >= len(findings))  # also above an empty panel
        positives = int(np.nansum(np.asarray(targets)[:, i]))
        axes.set_title(f"{findings[i]} (n={positives:,})", fontsize=9)
    figure.supxlabel(x, fontsize=10)
    figure.supylabel(y, fontsize=10)
    return figure, list(grid.flat)[: len(findings)]


def _note(axes: Axes, name: str, score: float, x: float, y: float) -> None:
    text = f"{name} {score:.3f}" if np.isfinite(score) else f"{name}: one class only"
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    axes.text(x, y, text, ha="right", transform=axes.transAxes, fontsize=8.5, bbox=box)


MOST_BINS, LEAST_BINS, POSITIVES_PER_BIN = 15, 3, 5
LOWEST = 1e-4
_Z = 1.959964  # 97.5 % of the normal distribution lie below
_LOOKS = (("before", GREY, 3.2), ("after calibration", BLUE, 4.2))  # label, colour, marker size


def reliability_diagrams(
    targets: np.ndarray,
    probs: np.ndarray,
    calibrated: np.ndarray,
    findings: Sequence[str],
    *,
    phantom: bool = False,
) -> Figure:
    """How many images of a given probability have the finding: probs (N, F) before, calibrated (N,
    F) after.

    One small panel per finding of targets (N, F) with NaN. A point is a bin; bins hold equal counts
    of images, and are 3 to 15, so that they have about five positive images each. The bar is the
    Wilson 95 % interval, which takes images as independent. Both axes are logarithmic, so that rare
    findings can be read, and end at a power of ten, not below `LOWEST`: what is lower stands there,
    and so does, as an open point, a bin without a positive image. ECE is that of
    `calibration_scores`, always from 15 bins. Raises ValueError as `evaluate`.
    """
    targets, probs = checked(targets, probs, findings, soft=True)
    both = (probs, checked(targets, calibrated, findings)[1])
    errors = [100 * calibration_scores(targets, values, findings)["ece"] for values in both]
    positives = (targets >= HALF).sum(axis=0)
    numbers = np.clip(positives // POSITIVES_PER_BIN, LEAST_BINS, MOST_BINS)
    bins = [
        [reliability(targets[:, j], values[:, j], number) for values in both]
        for j, number in enumerate(numbers)
    ]
    floor = _floor(bins)
    columns = min(5, len(findings))
    rows = -(-len(findings) // columns)
    figure = new_figure(max(3.4, 2.1 * columns), 0.9 + 2.35 * rows, phantom=phantom)
    for j, axes in enumerate(
        figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
    ):
        if j >= len(findings):
            axes.set_axis_off()
            continue
        _frame(axes, floor)
        axes.tick_params(labelbottom=j + columns >= len(findings))  # also above an empty panel
        axes.set_xlabel("mean probability (%)" if j // columns == rows - 1 else "", fontsize=9)
        axes.set_title(
            f"{findings[j]} (n={positives[j]:,})\n{_change(errors[0][j], errors[1][j])}",
            fontsize=8.5,
        )
        for (predicted, observed, count), (_, colour, size) in zip(bins[j], _LOOKS, strict=True):
            _points(axes, predicted, observed, count, floor, colour, size)
    figure.supylabel("images with the finding (%)", fontsize=10)
    _legend(figure)
    return figure


def wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high ends (n,) of the 95 % intervals of shares (n,) of count (n,) independent images
    (Wilson 1927)."""
    middle = (share * count + _Z**2 / 2) / (count + _Z**2)
    reach = _Z * np.sqrt(share * (1 - share) * count + _Z**2 / 4) / (count + _Z**2)
    return middle - reach, middle + reach


def _points(
    axes: Axes,
    predicted: np.ndarray,
    observed: np.ndarray,
    count: np.ndarray,
    floor: float,
    colour: str,
    size: float,
) -> None:
    """One series of bins: points, their intervals, and a line that stops at bins without a positive
    image."""
    low, high = wilson(observed, count)
    x, nonzero = predicted.clip(min=floor), observed > 0
    axes.vlines(x, low.clip(min=floor), high, color=colour, linewidth=0.9, alpha=0.6)
    axes.plot(
        x,
        np.where(nonzero, observed.clip(min=floor), np.nan),
        "-o",
        color=colour,
        linewidth=1,
        markersize=size,
    )
    empty = x[~nonzero]
    axes.plot(
        empty,
        np.full(len(empty), floor),
        "o",
        color=colour,
        markersize=size,
        markerfacecolor="white",
    )


def _change(before: float, after: float) -> str:
    if np.isnan(before):
        return "not annotated"
    return (
        f"ECE {before:.2f} %, unchanged"
        if before == after
        else f"ECE {before:.2f} to {after:.2f} %"
    )


def _floor(bins: Sequence[Sequence[tuple]]) -> float:
    """The power of ten under all probabilities and shares of bins that are not 0, at least
    `LOWEST`, at most 0.1."""
    values = np.concatenate(
        [[0.1], *(part for pair in bins for series in pair for part in series[:2])]
    )
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
    handles = [
        Line2D([], [], color=colour, marker="o", markersize=size, label=label)
        for label, colour, size in _LOOKS
    ]
    empty = {
        "color": BLUE,
        "marker": "o",
        "markersize": 4.2,
        "markerfacecolor": "white",
        "linewidth": 0,
    }
    handles.append(Line2D([], [], **empty, label="no positive image"))
    handles.append(Line2D([], [], color=INK, linestyle=":", label="perfect calibration"))
    columns = 4 if figure.get_figwidth() > 6 else 2
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False
    )
