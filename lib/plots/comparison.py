"""In: arms compared with a reference, their costs and subgroups. Out: matplotlib Figures."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from lib.metrics.bootstrap import ALPHA
from lib.metrics.scores import MACRO
from lib.plots.style import BLUE, GREY, INK, backbone_colour, heat_map, new_figure, style, wrap

MOST_ARMS = 12  # side by side in one panel of the differences
COSTS = {
    "parameters": "parameters (millions)",
    "train_seconds": "training (seconds)",
    "peak_memory_mb": "peak memory (MiB)",
    "cpu_latency_ms": "one image on the CPU (ms)",
}


def finding_differences(
    changes: pd.DataFrame,
    metric: str,
    label: str,
    findings: Sequence[str],
    *,
    phantom: bool = False,
) -> Figure:
    """A heat map of the differences from the reference (findings x arms), each with its 95 %
    interval in the cell.

    `changes` has arm, metric, finding, difference, low, high, p_holm; bold cells have p_holm < 0.05
    (corrected over the arms of that finding). Blue is better than the reference, orange worse.
    More than MOST_ARMS arms go on in a panel below.
    Raises ValueError where no arm is compared.
    """
    table = changes[changes["metric"] == metric]
    if table.empty:
        raise ValueError(
            "the figure of differences needs at least one arm beside the reference; got none"
        )
    arms = list(dict.fromkeys(table["arm"]))
    names = [name for name in (*findings, MACRO) if name in set(table["finding"])]
    cells = table.set_index(["finding", "arm"])
    values = table.pivot_table(
        index="finding", columns="arm", values="difference", sort=False
    ).reindex(names)[arms]
    limit = float(np.nanmax(np.abs(values.to_numpy(float)), initial=0.01))
    parts = -(-len(arms) // MOST_ARMS)
    each = -(-len(arms) // parts)
    size = (2.4 + 1.05 * max(2, each), parts * (1.6 + 0.38 * len(names)))
    figure = new_figure(*size, phantom=phantom)
    panels = figure.subplots(parts, 1, squeeze=False)[:, 0]
    for i, axes in enumerate(panels):
        shown = values[arms[i * each : (i + 1) * each]]
        image = _difference_cells(axes, shown, cells, limit)
        axes.set_xlim(-0.5, each - 0.5)  # cells of one width in every panel
    figure.colorbar(
        image, ax=panels, label=f"{label} - reference's", pad=0.02, fraction=0.05, aspect=60
    )
    return figure


def _difference_cells(
    axes: Axes, values: pd.DataFrame, cells: pd.DataFrame, limit: float
) -> AxesImage:
    """One panel of `finding_differences`: values (findings x arms), with those rows of `cells` as
    texts."""
    names, arms = list(values.index), list(values.columns)
    colours = colormaps["PuOr"].with_extremes(bad="#DDDDDD")
    shown = np.ma.masked_invalid(values.to_numpy(float))
    image = axes.imshow(shown, cmap=colours, vmin=-1.5 * limit, vmax=1.5 * limit, aspect="auto")
    for i, j in np.ndindex(values.shape):
        if (names[i], arms[j]) not in cells.index or np.isnan(values.iloc[i, j]):
            axes.text(j, i, "-", ha="center", va="center", fontsize=8, color=INK)
            continue
        cell = cells.loc[(names[i], arms[j])]
        weight = "bold" if cell["p_holm"] < ALPHA else "normal"
        look = {
            "ha": "center",
            "va": "center",
            "color": "white" if abs(cell["difference"]) > 0.95 * limit else INK,
        }
        axes.text(j, i - 0.17, f"{cell['difference']:+.3f}", fontsize=8, weight=weight, **look)
        interval = (
            "few positives"
            if np.isnan(cell["low"])
            else f"{cell['low']:+.2f} to {cell['high']:+.2f}"
        )
        axes.text(j, i + 0.24, interval, fontsize=6.5, **look)
    axes.set_xticks(range(len(arms)), [wrap(arm, 14) for arm in arms], fontsize=8.5)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(xlabel="arm", ylabel="finding")
    axes.axhline(len(names) - 1.5, color="white", linewidth=3)
    return image


def cost_quality(runs: pd.DataFrame, scores: pd.DataFrame, *, phantom: bool = False) -> Figure:
    """Macro AUROC of each arm, with its 95 % interval, against what it costs: one panel per cost.

    `runs` has a row per run with arm, backbone and the columns of COSTS (a column that is missing
    gets no panel); an arm's cost is the median of its runs, its latency the least. `scores` as for
    `ablation.ablation`.
    """
    costs = [name for name in COSTS if name in runs and runs[name].notna().any()]
    macro = scores[(scores["metric"] == "auroc") & (scores["finding"] == MACRO)].set_index("arm")
    arms = [arm for arm in dict.fromkeys(runs["arm"]) if arm in macro.index]
    columns = 2 if len(costs) > 1 else 1
    rows = -(-len(costs) // columns)
    figure = new_figure(
        4.6 * columns, 0.5 + 2.7 * rows + 0.17 * -(-len(arms) // 3), phantom=phantom
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    marks = "osD^vP*Xh<>dp"
    for axes, name in zip(panels.flat, costs, strict=False):
        for i, arm in enumerate(arms):
            arm_runs = runs[runs["arm"] == arm]
            cost = arm_runs[name].min() if name == "cpu_latency_ms" else arm_runs[name].median()
            cost /= 1e6 if name == "parameters" else 1
            row, colour = macro.loc[arm], backbone_colour(arm_runs["backbone"].iloc[0])
            axes.vlines(cost, row["low"], row["high"], color=colour, linewidth=1, alpha=0.5)
            axes.plot(
                cost,
                row["value"],
                marks[i % len(marks)],
                color=colour,
                markersize=6,
                **({"mec": "white"} if i < len(marks) else {"mfc": "white"}),
                label=arm,
            )
        if runs[name].max() > 20 * runs[name].min():
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        else:
            axes.set_xlim(0, None)
        axes.set_xlabel(COSTS[name])
        style(axes)
    for axes in panels.flat[len(costs) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("macro AUROC")
    handles = panels.flat[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def subgroup_scores(table: pd.DataFrame, *, label: str = "AUROC", phantom: bool = False) -> Figure:
    """A row per group, with its value and 95 % interval, from `comparison.subgroup_table`; small
    groups are hollow.

    Values compare within an attribute, where all groups are scored on the same findings, and not
    across.
    """
    figure = new_figure(7.2, 1.2 + 0.36 * len(table), phantom=phantom)
    axes = figure.subplots()
    rows = np.arange(len(table))
    for row, one in zip(rows, table.itertuples(), strict=True):
        if np.isnan(one.value):
            place = {"transform": axes.get_yaxis_transform(), "ha": "center", "va": "center"}
            axes.text(0.5, row, "too few positives to score", **place, fontsize=8, color=GREY)
            continue
        axes.hlines(row, one.low, one.high, color=INK, linewidth=1.6, alpha=0.6)
        axes.plot(one.value, row, "o", color=INK, mfc="white" if one.small else INK, markersize=6)
    labels = [
        f"{t.group}: {t.patients:,} patients, {t.findings} findings" for t in table.itertuples()
    ]
    axes.set_yticks(rows, labels, fontsize=9)
    axes.set_ylim(len(table) - 0.5, -0.5)
    for row in rows[1:][(table["attribute"].to_numpy()[1:] != table["attribute"].to_numpy()[:-1])]:
        axes.axhline(row - 0.5, color="#CCCCCC", linewidth=0.7)
    axes.set_xlabel(
        f"macro {label} (hollow: few patients)" if table["small"].any() else f"macro {label}"
    )
    style(axes, grid="x")
    return figure


def error_overlap(table: pd.DataFrame, *, phantom: bool = False) -> Figure:
    """A heat map of `metrics.error_overlap`: of the films with a missed finding (row), how many got
    another (column)."""
    shares = table.drop(columns="missed")
    values = shares.to_numpy(float)
    figure = new_figure(3.4 + 0.46 * len(shares.columns), 2.0 + 0.34 * len(shares), phantom=phantom)
    axes = figure.subplots()
    texts = [[f"{value:.0f}" if np.isfinite(value) else "" for value in row] for row in values]
    names = [f"{name} (missed {count:,})" for name, count in table["missed"].items()]
    heat_map(
        axes, values, names, list(shares.columns), texts, (0.0, 100.0), "% of the films of the row"
    )
    axes.set(xlabel="called, but absent", ylabel="missed")
    return figure


def pointing_scores(table: pd.DataFrame, *, phantom: bool = False) -> Figure:
    """Pointing game and energy in the box per finding, from `metrics.pointing_table`, beside a
    guess at the centre."""
    figure = new_figure(9, 1.5 + 0.36 * len(table), phantom=phantom)
    panels = figure.subplots(1, 2, sharey=True)
    rows = np.arange(len(table))
    titles = {"pointing": "maximum inside the box (%)", "energy": "heat inside the box (%)"}
    for axes, (measure, title) in zip(panels, titles.items(), strict=True):
        axes.hlines(
            rows,
            100 * table[f"{measure}_low"],
            100 * table[f"{measure}_high"],
            color=BLUE,
            linewidth=1.6,
        )
        axes.plot(100 * table[measure], rows, "o", color=BLUE, label="heat map, 95 % interval")
        axes.plot(
            100 * table[f"centre_{measure}"],
            rows,
            "D",
            color=GREY,
            mfc="none",  # shows a dot below it
            label="guess: the centre",
        )
        axes.set_xlim(-0.02 * axes.get_xlim()[1], None)  # a mark at 0 is not cut
        axes.set_xlabel(title)
        style(axes, grid="x")
    panels[0].set_yticks(rows, [f"{t.finding} ({t.boxes:,} boxes)" for t in table.itertuples()])
    panels[0].set_ylim(len(table) - 0.5, -0.5)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        fontsize=8,
        frameon=False,
    )
    return figure


def heat_grid(
    images: np.ndarray,
    maps: Sequence[np.ndarray],
    boxes: np.ndarray | None,
    titles: Sequence[str],
    *,
    columns: int = 6,
    phantom: bool = False,
) -> Figure:
    """Films (N, S, S) uint8 with N heat maps (h, w), each scaled to its own maximum, and any boxes
    (N, 4), in rows.

    Boxes are left, top, width, height as shares of the sides, drawn as dashed lines.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = new_figure(max(2.6, 1.7 * columns), 1.95 * rows, phantom=phantom)
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if i >= len(images):
            continue
        extent = (0, 1, 1, 0)
        axes.imshow(images[i], cmap="gray", vmin=0, vmax=255, extent=extent)
        heat = maps[i] / max(float(maps[i].max()), 1e-12)
        axes.imshow(
            heat,
            cmap="inferno",
            vmin=0,
            vmax=1,
            alpha=0.45,
            extent=extent,
            interpolation="nearest",  # smoothing would make it look finer than it is
        )
        if boxes is not None:
            left, top, width, height = boxes[i]
            axes.add_patch(
                Rectangle((left, top), width, height, fill=False, edgecolor="white", linestyle="--")
            )
        axes.set(xlim=(0, 1), ylim=(1, 0))
        axes.set_title(wrap(titles[i], 20), fontsize=7.5, pad=2)
    return figure


def findings_by_runs(
    matrix: pd.DataFrame,
    label: str = "AUROC",
    *,
    columns: str = "run",
    limits: tuple[float, float] | None = None,
    phantom: bool = False,
) -> Figure:
    """A heat map of `matrix` (findings x runs, or what `columns` says), the values in the cells;
    colours span `limits`, else the values."""
    values = matrix.to_numpy(float)
    if limits is None:
        finite = values[np.isfinite(values)]
        limits = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    texts = [[f"{value:.3f}" if np.isfinite(value) else "-" for value in row] for row in values]
    figure = new_figure(
        2.9 + 0.62 * max(2, len(matrix.columns)), 1.7 + 0.3 * len(matrix), phantom=phantom
    )
    axes = figure.subplots()
    heat_map(axes, values, list(matrix.index), list(matrix.columns), texts, limits, label)
    axes.set(xlabel=columns, ylabel="finding")
    if MACRO in matrix.index[1:]:
        axes.axhline(list(matrix.index).index(MACRO) - 0.5, color="white", linewidth=3)
    return figure
