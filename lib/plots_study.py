"""In: the runs of a study. Out: matplotlib Figures that compare them, one colour a backbone everywhere."""

import zlib

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lib.metrics import MACRO
from lib.plots_data import GREY, INK, heat_map, new_figure, style, wrap
from lib.significance import ALPHA

FAMILIES = (  # the first that the backbone's name contains; colours of Okabe and Ito (2008) and Tol (2021)
    ("efficientnet_b4", "#0072B2"),
    ("efficientnet", "#56B4E9"),
    ("vit_large", "#332288"),
    ("vit_base", "#CC79A7"),
    ("vit_small", "#6020E0"),
    ("vit", "#661100"),
    ("resnet50", "#D55E00"),
    ("resnet", "#E69F00"),
    ("vgg", "#009E73"),
    ("darknet", "#000000"),
    ("mobilenet", "#DDCC77"),
    ("densenet", "#882255"),
    ("convnext", "#117733"),
)
OTHERS = ("#44AA99", "#AA4499", "#999933", "#777777", "#CC6677", "#6699CC")  # by a hash of the name
PANELS = (("auroc", "AUROC"), ("average_precision", "average precision"), ("f1", "F1"))


def backbone_colour(backbone: str) -> str:
    """The colour of a timm backbone in every figure: by architecture, whatever its weights (the name after the dot)."""
    name = backbone.split(".")[0].lower()
    family = next((colour for family, colour in FAMILIES if family in name), None)
    return family or OTHERS[zlib.crc32(name.encode()) % len(OTHERS)]


def findings_by_runs(
    matrix: pd.DataFrame,
    label: str = "AUROC",
    *,
    limits: tuple[float, float] | None = None,
    phantom: bool = False,
) -> Figure:
    """A heat map of `matrix` (findings x runs), the values in the cells; colours span `limits`, else the values."""
    values = matrix.to_numpy(float)
    if limits is None:
        known = values[np.isfinite(values)]
        limits = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    texts = [[f"{value:.3f}" if np.isfinite(value) else "-" for value in row] for row in values]
    figure = new_figure(2.9 + 0.62 * max(2, len(matrix.columns)), 1.7 + 0.3 * len(matrix), phantom=phantom)
    axes = figure.subplots()
    heat_map(axes, values, list(matrix.index), list(matrix.columns), texts, limits, label)
    axes.set(xlabel="run", ylabel="finding")
    if MACRO in matrix.index[1:]:
        axes.axhline(list(matrix.index).index(MACRO) - 0.5, color="white", linewidth=3)
    return figure


def ablation(
    runs: pd.DataFrame,
    scores: pd.DataFrame | None = None,
    changes: pd.DataFrame | None = None,
    *,
    name: str = MACRO,
    chance_average_precision: float | None = None,
    phantom: bool = False,
) -> Figure:
    """One row an arm, in order of first appearance: a dot a seed, a bar for the mean, its 95 % interval.

    `runs` has one row a run: arm, seed, backbone, is_reference, auroc, average_precision, f1 (NaN where missing).
    `scores` (arm, metric, finding, low, high) gives the arms' intervals; without it every seed shows its own, from
    auroc_low and so on where `runs` has them. `changes` (arm, metric, finding, p_holm) gives the stars: p < 0.05
    against the reference. `name` says what was scored: macro, or one finding. The dashed line is the reference's
    mean; the dotted one what says nothing scores: 0.5 for AUROC, `chance_average_precision` (the mean prevalence),
    F1 0 (all answers negative). Raises ValueError where there is no run.
    """
    if runs.empty:
        raise ValueError("the ablation figure needs at least one run; got none")
    arms = list(dict.fromkeys(runs["arm"]))
    reference = set(runs.loc[runs["is_reference"].astype(bool), "arm"])
    labels = [wrap(arm) for arm in arms]
    heights = np.array([max(1.0, 0.45 + 0.42 * (label.count("\n") + 1)) for label in labels])
    middles = np.cumsum(heights) - heights / 2
    figure = new_figure(11, 1.5 + 0.4 * heights.sum(), phantom=phantom)
    panels = figure.subplots(1, len(PANELS), sharey=True)
    floors = {"auroc": 0.5, "average_precision": chance_average_precision, "f1": 0.0}
    for axes, (metric, title) in zip(panels, PANELS, strict=True):
        intervals = _rows(scores, metric, name)
        stars = _rows(changes, metric, name)
        for arm, middle in zip(arms, middles, strict=True):
            star = arm in stars.index and stars.loc[arm, "p_holm"] < ALPHA
            interval = None if scores is None else intervals.reindex([arm])[["low", "high"]].to_numpy(float)[0]
            _arm(axes, runs[runs["arm"] == arm], metric, middle, interval, star)
        means = runs[runs["arm"].isin(reference)].groupby("arm")[metric].mean()
        for mean in means.dropna():
            axes.axvline(mean, color=INK, linestyle="--", linewidth=1, zorder=1)
        _limits(axes, runs if scores is None else _with_intervals(runs, intervals, metric), metric, floors[metric])
        axes.set_xlabel(f"{name} {title}")
        axes.set_ylim(heights.sum(), 0)
        style(axes, grid="x")
        axes.tick_params("y", length=0)
        axes.annotate("mean", (1, 1), (4, 3), xycoords="axes fraction", textcoords="offset points", size=8, color=GREY)
    panels[0].set_yticks(middles, labels)
    for arm, tick in zip(arms, panels[0].get_yticklabels(), strict=True):
        tick.set_fontweight("bold" if arm in reference else "normal")
    drawn = {f"{metric}_low" for metric, _ in PANELS} & set(runs.columns)
    kind = "of the arm (patients and seeds)" if scores is not None else "of the seed (patients)" if drawn else ""
    _ablation_legend(figure, runs, bool(reference), kind, changes is not None)
    return figure


def _rows(table: pd.DataFrame | None, metric: str, finding: str) -> pd.DataFrame:
    """The rows of one metric and finding, by arm; none without a table."""
    if table is None:
        return pd.DataFrame(columns=["p_holm", "low", "high"])
    return table[(table["metric"] == metric) & (table["finding"] == finding)].set_index("arm")


def _with_intervals(runs: pd.DataFrame, intervals: pd.DataFrame, metric: str) -> pd.DataFrame:
    ends = {f"{metric}_{end}": runs["arm"].map(intervals[end]) for end in ("low", "high")}
    return runs.assign(**ends)


def _arm(
    axes: Axes, runs: pd.DataFrame, metric: str, middle: float, interval: np.ndarray | None, star: bool = False
) -> None:
    """The runs of one arm around the height `middle`: intervals, dots, the mean as a bar and as a number."""
    runs = runs[runs[metric].notna()]
    if runs.empty:
        axes.text(0.5, middle, "no value", transform=axes.get_yaxis_transform(), ha="center", va="center", color=GREY)
        return
    offsets = middle + np.linspace(-0.24, 0.24, len(runs)) if len(runs) > 1 else np.array([middle])
    colours = [backbone_colour(backbone) for backbone in runs["backbone"]]
    if interval is not None:
        axes.hlines(middle, *interval, colors=colours[0], linewidth=2.2, alpha=0.7, zorder=2)
    elif {f"{metric}_low", f"{metric}_high"} <= set(runs.columns):
        axes.hlines(offsets, runs[f"{metric}_low"], runs[f"{metric}_high"], colors=colours, linewidth=1, alpha=0.55)
    mean = runs[metric].mean()
    axes.vlines(mean, middle - 0.36, middle + 0.36, colors=colours[0], linewidth=3.5, zorder=3)
    axes.scatter(runs[metric], offsets, s=26, color=colours, edgecolor="white", linewidth=0.7, zorder=4)
    place = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
    text = f"{mean:.3f} *" if star else f"{mean:.3f}"
    axes.annotate(text, (1, middle), (4, 0), **place, va="center", fontsize=8.5, color=INK)


def _limits(axes: Axes, runs: pd.DataFrame, metric: str, floor: float | None) -> None:
    """Fit the axis to the values; mark the floor there, or at the edge where it is too far away to be drawn."""
    columns = [name for name in (metric, f"{metric}_low", f"{metric}_high") if name in runs]
    values = runs[columns].to_numpy(float)
    low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0.0, 1.0)
    if high - low < 0.02:
        low, high = max((low + high) / 2 - 0.01, 0.0), min((low + high) / 2 + 0.01, 1.0)
    span = high - low
    near = floor is not None and low - floor < span
    if near:
        low, high = min(low, floor), max(high, floor)
    pad = 0.06 * (high - low)
    axes.set_xlim(low - pad, high + pad)
    axes.locator_params("x", nbins=5)
    if floor is None or not np.isfinite(floor):
        return
    name = "all-negative" if metric == "f1" else "chance"
    place = {"textcoords": "offset points", "va": "bottom", "fontsize": 8, "color": GREY}
    if near:
        axes.axvline(floor, color=GREY, linestyle=":", linewidth=1.4, zorder=1)
        axes.annotate(f"{name} {floor:.3g}", (floor, 1), (0, 3), xycoords=axes.get_xaxis_transform(), **place)
    else:
        axes.annotate(f"\u2190 {name} {floor:.3g}", (0, 1), (0, 3), xycoords="axes fraction", **place)


def _ablation_legend(figure: Figure, runs: pd.DataFrame, reference: bool, interval: str, stars: bool) -> None:
    marks = [Line2D([], [], color=INK, marker="o", linestyle="", markersize=5, label="one seed")]
    marks.append(Line2D([], [], color=INK, marker="|", linestyle="", markersize=11, mew=3.5, label="mean of the arm"))
    if interval:
        marks.append(Line2D([], [], color=INK, linewidth=1.8, alpha=0.6, label=f"95 % interval {interval}"))
    if reference:
        marks.append(Line2D([], [], color=INK, linestyle="--", linewidth=1, label="mean of the reference (bold)"))
    if stars:
        label = f"differs from the reference, p < {ALPHA} (Holm)"
        marks.append(Line2D([], [], color=INK, marker="$*$", linestyle="", markersize=6, label=label))
    stems = dict.fromkeys(backbone.split(".")[0] for backbone in runs["backbone"])
    patches = [Patch(color=backbone_colour(stem), label=stem) for stem in stems]
    figure.legend(handles=marks + patches, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
