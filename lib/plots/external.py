"""In: internal and external scores. Out: a figure of both and of the drop, finding by finding."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.metrics.scores import MACRO
from lib.plots.style import BLUE, GREY, INK, ORANGE, new_figure, style, wrap


def external_scores(
    table: pd.DataFrame, title: str, metric: str = "auroc", *, phantom: bool = False
) -> Figure:
    """One metric on the model's own test set and on another set, and the drop, with 95 % intervals: one
    row per finding, the largest drop first, then those without an interval, the mean last.

    table: the rows of one model, set and way to answer of `external.external_table`; title: says which.
    Orange: the interval of the drop excludes 0. Hollow: too few positive patients for an interval.
    Raises ValueError where no finding has the metric in the other set.
    """
    rows = table[(table["metric"] == metric) & table["external"].notna()]
    rows = rows[rows["finding"].isin(table.loc[table["metric"] == "f1", "finding"])]
    if rows.empty:
        raise ValueError(f"no finding has {metric} in the other set: there is nothing to draw")
    rows = rows.assign(last=rows["finding"] == MACRO, unsure=rows["drop_low"].isna()).sort_values(
        ["last", "unsure", "drop"], ascending=[True, True, False], kind="stable"
    )
    figure = new_figure(10, 1.9 + 0.34 * len(rows), phantom=phantom)
    both, drops = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for height, row in enumerate(rows.to_dict("records")):
        _point(both, height - 0.14, row, "internal", GREY, "s")
        _point(both, height + 0.14, row, "external", BLUE, "o")
        clear = row["drop_low"] > 0 or row["drop_high"] < 0
        _point(drops, height, row, "drop", ORANGE if clear else INK, "D")
    names = {"auroc": "AUROC", "average_precision": "average precision", "f1": "F1"}
    name = names.get(metric, metric)
    both.set_xlabel(name, fontsize=9)
    drops.set_xlabel(f"drop of {name}, internal less external", fontsize=9)
    if metric == "auroc":
        both.axvline(0.5, color="#BBBBBB", linewidth=0.9, linestyle=":")
    drops.axvline(0, color="#BBBBBB", linewidth=0.9)
    labels = [
        "mean over findings" if row.last else f"{wrap(row.finding, 24)} ({_count(row)})"
        for row in rows.itertuples()
    ]
    both.set_yticks(range(len(rows)), labels, fontsize=9)
    both.set_ylabel("positive films:\nown / other set", fontsize=8, color=GREY)
    both.set_ylim(len(rows) - 0.4, -0.6)
    both.set_title(title, loc="left", fontsize=9, fontweight="bold")
    for axes in (both, drops):
        style(axes, grid="x")
        axes.tick_params(labelsize=9)
        axes.tick_params("y", length=0)
        if rows["last"].any() and len(rows) > 1:
            axes.axhline(len(rows) - 1.5, color="#CCCCCC", linewidth=0.7)
    _legend(figure, rows)
    return figure


def _point(axes, height: float, row: dict, name: str, colour: str, marker: str) -> None:
    """A value with its interval; hollow where it has none."""
    if np.isnan(row[name]):
        return
    known = not np.isnan(row[f"{name}_low"])
    if known:
        axes.hlines(height, row[f"{name}_low"], row[f"{name}_high"], colors=colour, linewidth=1.7)
    face = colour if known else "white"
    axes.plot(row[name], height, marker, color=colour, mfc=face, markersize=5)


def _count(row) -> str:
    """Positive films of its own test set, and of the other set."""
    counts = (row.internal_positives, row.external_positives)
    return " / ".join("?" if np.isnan(count) else f"{int(count):,}" for count in counts)


def _legend(figure: Figure, rows: pd.DataFrame) -> None:
    marks = {
        "its own test set": {"color": GREY, "marker": "s"},
        "the other set": {"color": BLUE, "marker": "o"},
        "drop": {"color": INK, "marker": "D"},
    }
    if ((rows["drop_low"] > 0) | (rows["drop_high"] < 0)).any():
        marks["drop whose interval excludes 0"] = {"color": ORANGE, "marker": "D"}
    if rows[["internal_low", "external_low"]].isna().any(axis=None):
        marks["too few patients for an interval"] = {"color": INK, "marker": "o", "mfc": "white"}
    handles = [Line2D([], [], linestyle="", label=label, **look) for label, look in marks.items()]
    place = {"loc": "outside lower center", "ncols": len(marks), "fontsize": 8, "frameon": False}
    figure.legend(handles=handles, **place)
