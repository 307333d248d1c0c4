"""In: the tables of `lib.stages`. Out: the stage matrix, how far each depth moved beside the freeze
sweep, and learning curves."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from lib.metrics.scores import MACRO
from lib.plots.style import GREY, INK, backbone_colour, new_figure, style, wrap

MARKS = "osD^vPX*"


def stage_matrix(
    scores: pd.DataFrame, changes: pd.DataFrame, backbone: str, *, phantom: bool = False
) -> Figure:
    """AUROC of every stage's model on every stage's test patients, with 95 % intervals, and beside
    it what later stages changed on the same patients.

    scores, changes: the tables of `stages.StageMatrix`. Shown are findings that several stages
    answer on one test set; all of them where there is none. A score without an interval has too
    few patients for one. Raises ValueError where there is no score.
    """
    if scores.empty:
        raise ValueError("the stage matrix needs at least one score; got none")
    stages = list(dict.fromkeys(scores["stage"].tolist()))
    rows = _matrix_rows(scores)
    middles, headers, height = _heights(rows)
    figure = new_figure(9.2, 1.5 + 0.34 * height, phantom=phantom)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
    order = sorted(stages, key=lambda stage: _first_test(scores, stage))
    looks = {
        stage: {"color": colour, "marker": MARKS[i % len(MARKS)]}
        for i, (stage, colour) in enumerate(
            zip(order, _shades(backbone_colour(backbone), len(order)), strict=True)
        )
    }
    for key, middle in middles.items():
        changed = _at(changes, key)
        _dots(left, _at(scores, key), "stage", "value", middle, looks)
        _dots(right, changed, "later", "difference", middle, looks)
        if len(changed) == 1 and np.isfinite(changed["difference"].iloc[0]):
            place = {"transform": right.get_yaxis_transform(), "va": "center", "fontsize": 8}
            right.text(1.02, middle, f"{changed['difference'].iloc[0]:+.3f}", **place, color=INK)
    for y, title, about in headers:
        place = {"transform": left.get_yaxis_transform(), "va": "center", "in_layout": False}
        place["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # over the lines
        left.text(0.01, y, title, **place, fontsize=8.5, weight="bold", color=INK)
        left.text(0.01, y + 0.5, about, **place, fontsize=7.5, color=GREY)
    for axes in (left, right):
        style(axes, grid="x")
        axes.tick_params("y", length=0)
    left.set_yticks(list(middles.values()), [finding for _, finding in middles])
    left.set_ylim(height, 0)
    left.set_xlabel("AUROC on the test patients")
    right.axvline(0, color=INK, linewidth=1)
    right.set_xlabel("change in AUROC\n(later minus earlier stage)")
    _widen(left)
    handles = [
        Line2D([], [], **looks[stage], markersize=6, label=wrap(f"after the {stage}", 44))
        for stage in order
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _first_test(scores: pd.DataFrame, stage: str) -> int:
    """Where a stage stands in the chain: where its own test set does."""
    sets = list(dict.fromkeys(scores["test_set"]))
    return sets.index(stage) if stage in sets else len(sets)


def _matrix_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per test set and finding that several stages answer, or all."""
    answered = scores.groupby(["test_set", "finding"])["stage"].transform("nunique")
    shown = scores[answered > 1] if (answered > 1).any() else scores
    return shown.drop_duplicates(["test_set", "finding"])


def _heights(rows: pd.DataFrame) -> tuple[dict, list[tuple[float, str, str]], float]:
    """(test set, finding) -> its height; the height, title and second line of each test set's
    header; the height of all."""
    middles: dict[tuple[str, str], float] = {}
    headers, height = [], 0.0
    for test_set, group in rows.groupby("test_set", sort=False):
        first = group.iloc[0]
        about = f"{first.folders}, {first.patients:,} patients"
        headers.append((height + 0.45, f"test set of the {test_set}", about))
        height += 1.3
        for finding in group["finding"]:
            middles[(test_set, finding)] = height + 0.5
            height += 1.0
        height += 0.2
    return middles, headers, height


def _at(table: pd.DataFrame, key: tuple[str, str]) -> pd.DataFrame:
    return table[(table["test_set"] == key[0]) & (table["finding"] == key[1])]


def _offsets(count: int) -> np.ndarray:
    return np.linspace(-0.22, 0.22, count) if count > 1 else np.zeros(count)


def _dots(
    axes: Axes,
    rows: pd.DataFrame,
    by: str,
    value: str,
    middle: float,
    looks: dict[str, dict],
) -> None:
    """The values of one row of the matrix with their intervals, one under the other."""
    rows = rows.sort_values(by, key=lambda names: names.map(list(looks).index), kind="stable")
    for (_, row), shift in zip(rows.iterrows(), _offsets(len(rows)), strict=True):
        look, y = looks[row[by]], middle + shift
        axes.hlines(y, row["low"], row["high"], color=look["color"], linewidth=2)
        axes.plot(row[value], y, **look, markersize=6, mec="white", mew=0.6, linestyle="")


def _widen(axes: Axes) -> None:
    """AUROC from 0 to 1 at most, with chance marked where it is in view."""
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, 0), min(max(high, low + 0.05), 1.005))
    if axes.get_xlim()[0] < 0.5:
        axes.axvline(0.5, color=GREY, linestyle=":", linewidth=1.2, zorder=1)


def _shades(colour: str, count: int) -> list[tuple[float, ...]]:
    """Shades of a backbone's colour, the lightest first: a light one gets darker, a dark one starts
    lighter."""
    full = np.array(to_rgb(colour))
    light = full @ (0.299, 0.587, 0.114) > 0.45
    ends = (full, 0.42 * full) if light else (full + 0.6 * (1 - full), full)
    return [tuple(ends[0] + part * (ends[1] - ends[0])) for part in np.linspace(0, 1, count)]


def stage_drift(
    table: pd.DataFrame, sweep: pd.DataFrame, backbone: str, *, phantom: bool = False
) -> Figure:
    """How alike each depth is before and after every stage (linear CKA), beside the AUROC of arms
    whose first depths are frozen.

    table: `stages.Drift.table`; bars are the ends over trainings, the dotted line what unrelated
    images reach. sweep: of `stages.freeze_sweep`; where it is empty there is one panel. Raises
    ValueError where nothing is known of any depth.
    """
    if table.empty:
        raise ValueError("the figure of depths needs at least one transition; got none")
    panels = 1 if sweep.empty else 2
    transitions = list(dict.fromkeys(table["transition"]))
    lines = -(-len(transitions) // (1 + panels))
    figure = new_figure(5.4 * panels, 4.1 + 0.2 * lines, phantom=phantom)
    axes, *others = figure.subplots(1, panels, squeeze=False)[0]
    colour = backbone_colour(backbone)
    looks = _transition_looks(transitions, colour)
    for (name, look), shift in zip(looks.items(), np.linspace(-0.1, 0.1, len(looks)), strict=True):
        rows = table[table["transition"] == name]
        x = rows["depth"] + shift
        axes.plot(x, rows["cka"], **look, label=wrap(name, 34))
        axes.vlines(x, rows["least"], rows["most"], color=look["color"], linewidth=1)
    chance = table.groupby("depth")["chance"].mean()
    axes.plot(chance.index, chance, color=GREY, linestyle=":", label="unrelated images")
    axes.set(ylim=(0, 1.03), ylabel="linear CKA, before against after\n(1: the same but rotated)")
    axes.set_xlabel("depth of the backbone (1: the stem)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style(axes)
    for other in others:
        _sweep_panel(other, sweep, int(table["depth"].max()), colour)
    if panels == 2:
        _name_one_seed(others[0], sweep)
    figure.legend(loc="outside lower center", ncols=1 + panels, fontsize=8, frameon=False)
    return figure


def _transition_looks(transitions: Sequence[str], colour: str) -> dict[str, dict]:
    """Single stages in shades of the backbone's colour with a mark each; all together, and without
    the earlier ones, as thick lines."""
    whole = ("together", "(no stage before)")
    single = [name for name in transitions if not name.endswith(whole)]
    looks: dict[str, dict] = {
        name: {"color": shade, "marker": MARKS[i % len(MARKS)], "markersize": 5}
        for i, (name, shade) in enumerate(zip(single, _shades(colour, len(single)), strict=True))
    }
    for name in transitions:
        dashed = {} if name.endswith("together") else {"linestyle": (0, (4, 1.6))}
        looks.setdefault(name, {"color": INK, "linewidth": 2.2, "alpha": 0.6, **dashed})
    return looks


def _sweep_panel(axes: Axes, sweep: pd.DataFrame, depths: int, colour: str) -> None:
    """Macro AUROC by the number of frozen depths, the reference dashed; no line goes over depths
    that no arm freezes."""
    axes.vlines(sweep["frozen"], sweep["low"], sweep["high"], color=colour, linewidth=2, alpha=0.7)
    ends = sweep["frozen"].to_list()
    known = sweep.set_index("frozen")["value"].reindex(range(min(ends), max(ends) + 1))
    axes.plot(known.index, known, "-o", color=colour, markersize=6, mec="white")
    one = sweep[_of_one_seed(sweep)]
    axes.plot(one["frozen"], one["value"], "o", color=colour, markersize=6, mfc="white")
    reference = sweep[sweep["is_reference"].astype(bool)]
    if len(reference):
        look = {"color": INK, "linestyle": "--", "linewidth": 1, "zorder": 1}
        axes.axhline(reference["value"].iloc[0], **look, label="AUROC of the reference")
    axes.set(xlim=(-0.5, depths + 0.5), ylabel="macro AUROC on the test patients")
    axes.set_xlabel(f"frozen depths of the backbone ({depths}: all, only the head learns)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style(axes)


def _of_one_seed(rows: pd.DataFrame) -> pd.Series:
    """Which rows are of one seed, though others are of several."""
    return (rows["seeds"] == 1) & (rows["seeds"].max() > 1)


def _name_one_seed(axes: Axes, rows: pd.DataFrame) -> None:
    """What hollow marks mean, for the legend, where there are any."""
    if _of_one_seed(rows).any():
        look = {"color": INK, "marker": "o", "mfc": "white", "linestyle": ""}
        axes.plot([], [], **look, label="hollow: one seed")


def learning_curves(table: pd.DataFrame, *, phantom: bool = False) -> Figure:
    """Macro AUROC with its 95 % interval by the share of training patients, one line per family.

    table: of `stages.learning_curves`. The share is on a logarithmic axis; families stand a little
    apart, so that their intervals can be told apart. Raises ValueError where there is no family.
    """
    if table.empty:
        raise ValueError("learning curves need at least one arm that sets train_fraction; got none")
    families = list(dict.fromkeys(table["family"]))
    figure = new_figure(6.4, 4.0 + 0.2 * -(-len(families) // 3), phantom=phantom)
    axes = figure.subplots()
    shares = sorted(table["train_fraction"].unique())
    apart = min([np.log(b / a) for a, b in pairwise(shares)], default=0.5) / 14
    few = _of_one_seed(table)
    dashes = ("-", (0, (5, 1.6)), (0, (1.4, 1)), (0, (6, 1.5, 1.5, 1.5)))
    for i, family in enumerate(families):
        rows = table[table["family"] == family]
        colour = _shades(backbone_colour(rows["backbone"].iloc[0]), len(families) + 1)[-1 - i]
        shift = np.exp(apart * (i - (len(families) - 1) / 2))
        x = rows["train_fraction"] * shift
        axes.vlines(x, rows["low"], rows["high"], color=colour, linewidth=1.4, alpha=0.7)
        look = {"color": colour, "marker": MARKS[i % len(MARKS)], "markersize": 6.5, "mec": "white"}
        axes.plot(x, rows["value"], **look, linestyle=dashes[i % len(dashes)], label=family)
        one = few[rows.index]
        axes.plot(x[one], rows["value"][one], **{**look, "mec": colour}, mfc="white", linestyle="")
    _name_one_seed(axes, table)
    axes.set_xscale("log")
    axes.set_xticks(shares, _share_texts(table, shares))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    images = "\n(images in the mean)" if table["train_images"].notna().any() else ""
    axes.set_xlabel(f"share of the training patients{images}")
    axes.set_ylabel(f"{MACRO} AUROC on the test patients")
    style(axes)
    look = {"ncols": 3, "fontsize": 8, "frameon": False, "handlelength": 4}
    figure.legend(loc="outside lower center", **look)
    return figure


def _share_texts(table: pd.DataFrame, shares: Sequence[float]) -> list[str]:
    """ "30 %" and, where known, the number of images below."""
    images = table.groupby("train_fraction")["train_images"].mean()
    return [
        f"{100 * share:g} %" + ("" if np.isnan(images[share]) else f"\n{images[share]:,.0f}")
        for share in shares
    ]
