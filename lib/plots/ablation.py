"""In: the runs of a study, its scores and differences. Out: the ablation figure, for a page or for
a column."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lib.metrics.bootstrap import ALPHA
from lib.metrics.scores import MACRO
from lib.plots.style import GREY, INK, backbone_colour, new_figure, style, wrap

PANELS = (("auroc", "AUROC"), ("average_precision", "average precision"), ("f1", "F1"))


ROOM = 0.35  # row heights, below an arm that has an ensemble


@dataclass(frozen=True)
class Look:
    """The layout of the ablation figure: lengths in inches, text and marks in points, `line` in row
    heights."""

    grid: tuple[int, int]
    width: float
    around: float  # of a panel: what is above and below its rows
    row: float
    line: float
    letters: int  # of an arm's name per line
    text: float
    label: float
    dot: float
    bar: float
    legend: int  # its columns
    words: int  # letters of its lines


PAGE = Look(
    (1, 3),
    width=11,
    around=1.5,
    row=0.4,
    line=0.42,
    letters=26,
    text=8,
    label=10,
    dot=26,
    bar=3.5,
    legend=3,
    words=60,
)
COLUMN = Look(
    (3, 1),
    width=3.5,
    around=0.8,
    row=0.17,
    line=0.6,
    letters=16,
    text=7,
    label=7,
    dot=11,
    bar=2.2,
    legend=2,
    words=26,
)


def ablation(
    runs: pd.DataFrame,
    scores: pd.DataFrame | None = None,
    changes: pd.DataFrame | None = None,
    ensembles: pd.DataFrame | None = None,
    *,
    name: str = MACRO,
    chance_average_precision: float | None = None,
    column: bool = False,
    phantom: bool = False,
) -> Figure:
    """One row per arm, in order of first appearance: a dot per seed, a bar for the mean, its 95 %
    interval.

    `runs` has one row per run: arm, seed, backbone, is_reference, auroc, average_precision, f1 (NaN
    where missing). `scores` (arm, metric, finding, low, high) gives the arms' intervals; without it
    every seed shows its own, from auroc_low and so on where `runs` has them. `changes` (arm,
    metric, finding, p_holm) gives the stars: p < 0.05 against the reference, of the study's primary
    metric. `ensembles` (arm, metric, finding, value, low, high) gives each arm's ensemble of seeds:
    a hollow diamond with its interval at the foot of the arm's row. An arm that has fewer seeds
    than others says how many beside its name. `name` says what was scored: macro, or one finding.
    The dashed line is the reference's mean; the dotted one the score of an uninformative model: 0.5
    for AUROC, `chance_average_precision`
    (`metrics.random_average_precision` of this test set), F1 0 (all-negative). With `column` the
    panels are stacked, for a column of a paper: 3.5 inches wide, no text below 7 points. Raises
    ValueError where there is no run.
    """
    if runs.empty:
        raise ValueError("the ablation figure needs at least one run; got none")
    look = COLUMN if column else PAGE
    arms = list(dict.fromkeys(runs["arm"]))
    reference = set(runs.loc[runs["is_reference"].astype(bool), "arm"])
    labels = _arm_labels(runs, arms, look.letters)
    several = _ensembles_of(ensembles, arms, name)
    below = np.where(np.isin(arms, list(several["arm"])), ROOM, 0.0)  # for the diamond
    heights = np.array([max(1.0, 0.45 + look.line * (label.count("\n") + 1)) for label in labels])
    heights = heights + below
    middles = dict(zip(arms, np.cumsum(heights) - (heights + below) / 2, strict=True))
    figure = new_figure(
        look.width, look.grid[0] * (look.around + look.row * heights.sum()), phantom=phantom
    )
    panels = figure.subplots(*look.grid, sharey=True)
    floors = {"auroc": 0.5, "average_precision": chance_average_precision, "f1": 0.0}
    for axes, (metric, title) in zip(panels, PANELS, strict=True):
        intervals, shown, stars = None, runs, set()
        if scores is not None:
            intervals = _rows(scores, metric, name).reindex(arms)[["low", "high"]]
            shown = _with_intervals(runs, intervals, metric)
        if changes is not None:
            stars = set(_rows(changes, metric, name).query(f"p_holm < {ALPHA}").index)
        _panel(axes, runs, metric, middles, intervals, stars, look)
        drawn_too = several[several["metric"] == metric]
        _draw_ensembles(axes, drawn_too, runs, middles, look)
        if len(drawn_too):
            ends = {"value": metric, "low": f"{metric}_low", "high": f"{metric}_high"}
            shown = pd.concat([shown, drawn_too.drop(columns="metric").rename(columns=ends)])
        _limits(axes, shown, metric, floors[metric], look)
        counts = runs[f"n_{metric}"].dropna().unique() if f"n_{metric}" in runs else []
        over = f", {counts[0]:.0f} findings" if name == MACRO and len(counts) == 1 else ""
        axes.set_xlabel(f"{name} {title}{over}", fontsize=look.label)
        axes.set_ylim(heights.sum(), 0)
        axes.set_yticks(list(middles.values()), labels)
        for arm, tick in zip(
            arms, axes.get_yticklabels(), strict=False
        ):  # a row of panels shows them once
            tick.set_fontweight("bold" if arm in reference else "normal")
    drawn = {f"{metric}_low" for metric, _ in PANELS} & set(runs.columns)
    kind = "of the seed (patients)" if drawn else ""
    if scores is not None:
        kind = "of the arm (patients and seeds; of average precision less its bias)"
    flags = (bool(reference), _tested(changes, name), not several.empty)
    _ablation_legend(figure, runs, kind, *flags, look)
    return figure


def _arm_labels(runs: pd.DataFrame, arms: list[str], letters: int) -> list[str]:
    """The arms' names; with the number of its seeds where an arm has fewer than another."""
    seeds, labels = runs.groupby("arm")["seed"].nunique(), []
    for arm in arms:
        label, count = wrap(arm, letters), f"({seeds[arm]} seed{'s' if seeds[arm] > 1 else ''})"
        if seeds[arm] < seeds.max():
            fits = len(label.splitlines()[-1]) + 1 + len(count) <= letters
            label += (" " if fits else "\n") + count
        labels.append(label)
    return labels


def _tested(changes: pd.DataFrame | None, finding: str) -> str:
    """The metrics that `changes` has p-values of: only these can have stars."""
    if changes is None:
        return ""
    known = changes[(changes["finding"] == finding) & changes["p_holm"].notna()]
    return " or ".join(title for metric, title in PANELS if metric in set(known["metric"]))


def _rows(table: pd.DataFrame, metric: str, finding: str) -> pd.DataFrame:
    """The rows of one metric and finding, by arm."""
    return table[(table["metric"] == metric) & (table["finding"] == finding)].set_index("arm")


def _ensembles_of(ensembles: pd.DataFrame | None, arms: list[str], finding: str) -> pd.DataFrame:
    """arm, metric, value, low and high of the arms' ensembles for one finding; empty where there is
    none."""
    columns = ["arm", "metric", "value", "low", "high"]
    if ensembles is None or ensembles.empty:
        return pd.DataFrame(columns=columns)
    return ensembles[(ensembles["finding"] == finding) & ensembles["arm"].isin(arms)][columns]


def _draw_ensembles(
    axes: Axes, rows: pd.DataFrame, runs: pd.DataFrame, middles: dict[str, float], look: Look
) -> None:
    """A hollow diamond and its interval at the foot of each arm's row."""
    backbones = runs.drop_duplicates("arm").set_index("arm")["backbone"]
    for row in rows.dropna(subset=["value"]).itertuples():
        colour, height = backbone_colour(backbones[row.arm]), middles[row.arm] + 0.55
        axes.hlines(height, row.low, row.high, colors=colour, linewidth=1, zorder=2)
        axes.scatter(
            row.value, height, s=look.dot, marker="D", facecolor="white", edgecolor=colour, zorder=5
        )


def _with_intervals(runs: pd.DataFrame, intervals: pd.DataFrame, metric: str) -> pd.DataFrame:
    ends = {f"{metric}_{end}": runs["arm"].map(intervals[end]) for end in ("low", "high")}
    return runs.assign(**ends)


def _panel(
    axes: Axes,
    runs: pd.DataFrame,
    metric: str,
    middles: dict[str, float],
    intervals: pd.DataFrame | None,
    stars: set[str],
    look: Look,
) -> None:
    """The arms of one metric, each around its height, and the mean of the reference as a line."""
    for arm, middle in middles.items():
        interval = None if intervals is None else intervals.loc[arm].to_numpy(float)
        _arm(axes, runs[runs["arm"] == arm], metric, middle, interval, arm in stars, look)
    for mean in runs[runs["is_reference"].astype(bool)].groupby("arm")[metric].mean().dropna():
        axes.axvline(mean, color=INK, linestyle="--", linewidth=1, zorder=1)
    style(axes, grid="x")
    axes.tick_params(labelsize=look.label)
    axes.tick_params("y", length=0)
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "size": look.text}
    axes.annotate("mean", (1, 1), (4, 3), **place, color=GREY)


def _arm(
    axes: Axes,
    runs: pd.DataFrame,
    metric: str,
    middle: float,
    interval: np.ndarray | None,
    star: bool,
    look: Look,
) -> None:
    """The runs of one arm around the height `middle`: intervals, dots, the mean as a bar and as a
    number."""
    runs = runs[runs[metric].notna()]
    if runs.empty:
        place = {
            "transform": axes.get_yaxis_transform(),
            "ha": "center",
            "va": "center",
            "fontsize": look.label,
        }
        axes.text(0.5, middle, "no value", **place, color=GREY)
        return
    offsets = middle + np.linspace(-0.24, 0.24, len(runs)) if len(runs) > 1 else np.array([middle])
    colours = [backbone_colour(backbone) for backbone in runs["backbone"]]
    if interval is not None:
        axes.hlines(middle, *interval, colors=colours[0], linewidth=2.2, alpha=0.7, zorder=2)
    elif {f"{metric}_low", f"{metric}_high"} <= set(runs.columns):
        axes.hlines(
            offsets,
            runs[f"{metric}_low"],
            runs[f"{metric}_high"],
            colors=colours,
            linewidth=1,
            alpha=0.55,
        )
    mean = runs[metric].mean()
    axes.vlines(mean, middle - 0.36, middle + 0.36, colors=colours[0], linewidth=look.bar, zorder=3)
    axes.scatter(
        runs[metric], offsets, s=look.dot, color=colours, edgecolor="white", linewidth=0.7, zorder=4
    )
    place = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
    text = f"{mean:.3f} *" if star else f"{mean:.3f}"
    axes.annotate(text, (1, middle), (4, 0), **place, va="center", fontsize=look.text, color=INK)


def _limits(axes: Axes, runs: pd.DataFrame, metric: str, floor: float | None, look: Look) -> None:
    """Fit the axis to the values; mark the floor there, or at the edge where it is too far away to
    be drawn."""
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
    place = {"textcoords": "offset points", "va": "bottom", "fontsize": look.text, "color": GREY}
    if near:
        axes.axvline(floor, color=GREY, linestyle=":", linewidth=1.4, zorder=1)
        axes.annotate(
            f"{name} {floor:.3g}", (floor, 1), (0, 3), xycoords=axes.get_xaxis_transform(), **place
        )
    else:
        axes.annotate(
            f"\u2190 {name} {floor:.3g}", (0, 1), (0, 3), xycoords="axes fraction", **place
        )


def _ablation_legend(
    figure: Figure,
    runs: pd.DataFrame,
    interval: str,
    reference: bool,
    stars: str,
    ensembles: bool,
    look: Look,
) -> None:
    """What the marks mean, below the panels."""
    marks = [Line2D([], [], color=INK, marker="o", linestyle="", markersize=5, label="one seed")]
    marks.append(
        Line2D(
            [],
            [],
            color=INK,
            marker="|",
            linestyle="",
            markersize=11,
            mew=3.5,
            label="mean of the arm",
        )
    )
    if interval:
        marks.append(
            Line2D([], [], color=INK, linewidth=1.8, alpha=0.6, label=f"95 % interval {interval}")
        )
    if ensembles:
        diamond = {"marker": "D", "markersize": 5, "mfc": "white", "linewidth": 1}
        label = "ensemble of the arm's seeds, with its 95 % interval"
        marks.append(Line2D([], [], color=INK, label=label, **diamond))
    if reference:
        marks.append(
            Line2D(
                [], [], color=INK, linestyle="--", linewidth=1, label="mean of the reference (bold)"
            )
        )
    if stars:
        label = f"{stars} differs from the reference, p < {ALPHA} (Holm)"
        marks.append(
            Line2D([], [], color=INK, marker="$*$", linestyle="", markersize=6, label=label)
        )
    stems = dict.fromkeys(backbone.split(".")[0] for backbone in runs["backbone"])
    marks += [Patch(color=backbone_colour(stem), label=stem) for stem in stems]
    for mark in marks:
        mark.set_label(wrap(mark.get_label(), look.words))
    place = {
        "loc": "outside lower center",
        "ncols": look.legend,
        "fontsize": look.text,
        "frameon": False,
    }
    figure.legend(handles=marks, **place)
