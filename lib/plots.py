"""In: histories, targets and probabilities, metrics. Out: matplotlib Figures; nothing is shown or saved.

`from lib import plots` gives every figure of the project: those of the data are in `lib.plots_data`, those of a study
in `lib.plots_study`, `lib.plots_ablation` and `lib.plots_compare`. With `phantom=True` a figure says that its images
are synthetic.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.metrics import auroc, average_precision, operating_points
from lib.plots_ablation import ablation
from lib.plots_calibration import reliability_diagrams
from lib.plots_compare import (
    cost_quality,
    error_overlap,
    finding_differences,
    heat_grid,
    pointing_scores,
    subgroup_scores,
)
from lib.plots_data import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    cooccurrence,
    image_grid,
    label_counts,
    new_figure,
    style,
    wrap,
)
from lib.plots_study import backbone_colour, findings_by_runs

__all__ = [
    "ablation",
    "accuracy_vs_all_negative",
    "backbone_colour",
    "cooccurrence",
    "cost_quality",
    "error_overlap",
    "finding_differences",
    "findings_by_runs",
    "heat_grid",
    "image_grid",
    "label_counts",
    "pointing_scores",
    "precision_recall_curves",
    "reliability_diagrams",
    "roc_curves",
    "subgroup_scores",
    "training_curves",
]

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#DDCC77")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)))


def training_curves(histories: Mapping[str, pd.DataFrame], *, phantom: bool = False) -> Figure:
    """Loss, validation AUROC and average precision, and learning rate per epoch, one line a run {name: history}.

    A history has the columns epoch, train_loss, val_loss, val_auroc, val_average_precision and lr.
    """
    rows = -(-len(histories) // 3)
    figure = new_figure(9, 5.4 + 0.2 * rows, phantom=phantom)
    loss, area, precision, rate = figure.subplots(2, 2, sharex=True).flat
    for i, (name, history) in enumerate(histories.items()):
        look = {"color": LINES[i % len(LINES)], "linestyle": DASHES[i // len(LINES) % len(DASHES)], "markersize": 3}
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
            Line2D([], [], color=INK, marker=".", markersize=3, alpha=0.45, linewidth=1, label="training"),
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


def roc_curves(targets: np.ndarray, probs: np.ndarray, findings: Sequence[str], *, phantom: bool = False) -> Figure:
    """The ROC curve of each finding from targets (N, F) with NaN and probs (N, F), one small panel each."""
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
    """Precision against recall of each finding, one small panel each; the dotted line is its prevalence (chance)."""
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
    """Accuracy of each finding beside that of answering "no" to every image, from the table of `metrics.evaluate`."""
    names = list(metrics["finding"])
    figure = new_figure(6.4, 1.5 + 0.27 * len(names), phantom=phantom)
    axes = figure.subplots()
    floor, accuracy = 100 * metrics["accuracy_all_negative"], 100 * metrics["accuracy"]
    rows = np.arange(len(names))
    axes.hlines(rows, floor, accuracy, color=np.where(accuracy >= floor, BLUE, ORANGE), linewidth=2)
    axes.scatter(floor, rows, s=70, facecolor="white", edgecolor=INK, zorder=3, label='answering "no" to every image')
    better = (accuracy >= floor).to_numpy()
    for which, colour, label in (
        (better, BLUE, "model, at least as good"),
        ((accuracy < floor).to_numpy(), ORANGE, "model, worse"),
    ):
        if which.any():
            axes.scatter(accuracy[which], rows[which], s=34, color=colour, zorder=4, label=label)
    for row in rows[metrics["accuracy"].isna()]:
        axes.text(0.5, row, "not annotated", transform=axes.get_yaxis_transform(), ha="center", va="center", color=GREY)
    axes.set_yticks(rows, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("accuracy (% of images)")
    style(axes, grid="x")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _panels(
    targets: np.ndarray, findings: Sequence[str], x: str, y: str, phantom: bool
) -> tuple[Figure, Sequence[Axes]]:
    """One square panel a finding, titled with its name and number of positive images."""
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
