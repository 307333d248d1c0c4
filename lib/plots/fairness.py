"""In: error rates by group of patients. Out: a figure of one arm's groups."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.metrics.bootstrap import ALPHA
from lib.plots.style import BLUE, GREY, INK, ORANGE, new_figure, style, wrap

PANELS = {
    "auroc": "macro AUROC",
    "fnr": "macro false negative rate",
    "fpr": "macro false positive rate",
    "underdiagnosis": "underdiagnosis: a finding,\nbut none called",
}


def group_rates(table: pd.DataFrame, arm: str, *, phantom: bool = False) -> Figure:
    """The rates of one arm in each group, with 95 % intervals: one panel per rate, one row per group.

    `table` is that of `comparison.fairness_table`. Orange: the gap to the largest group of the
    attribute, which is grey, has p < 0.05 (corrected over groups). Hollow: few patients. Raises
    ValueError where the arm has no group.
    """
    rows = table[table["arm"] == arm]
    if rows.empty:
        raise ValueError(f"the arm {arm} has no groups to draw; there are {set(table['arm'])}")
    groups = rows.drop_duplicates(["attribute", "group"])[["attribute", "group", "patients"]]
    places = {(t.attribute, t.group): i for i, t in enumerate(groups.itertuples())}
    figure = new_figure(11, 1.7 + 0.34 * len(groups), phantom=phantom)
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (rate, title) in zip(panels, PANELS.items(), strict=True):
        for row in rows[rows["rate"] == rate].itertuples():
            height = places[row.attribute, row.group]
            colour = GREY if row.group == row.against else ORANGE if row.p_holm < ALPHA else BLUE
            if np.isnan(row.value):
                axes.text(
                    *(0.5, height, "too few films"),
                    transform=axes.get_yaxis_transform(),
                    **{"ha": "center", "va": "center", "fontsize": 7.5, "color": GREY},
                )
                continue
            axes.hlines(height, row.low, row.high, colors=colour, linewidth=1.8)
            face = "white" if row.small else colour
            axes.plot(row.value, height, "o", color=colour, mfc=face, markersize=6)
        axes.set_xlabel(title, fontsize=9)
        axes.tick_params(labelsize=9)
        axes.tick_params("y", length=0)
        axes.locator_params("x", nbins=4)
        style(axes, grid="x")
        new = groups["attribute"].to_numpy()[1:] != groups["attribute"].to_numpy()[:-1]
        for line in np.flatnonzero(new):
            axes.axhline(line + 0.5, color="#CCCCCC", linewidth=0.7)
    labels = [f"{wrap(t.group, 30)} ({t.patients:,} patients)" for t in groups.itertuples()]
    panels[0].set_yticks(range(len(groups)), labels, fontsize=9)
    panels[0].set_ylim(len(groups) - 0.5, -0.5)
    panels[0].set_title(f"arm {arm}", loc="left", fontsize=9, fontweight="bold")
    marks = {
        "largest group of its kind": {"color": GREY},
        "another group": {"color": BLUE},
        f"its gap to the largest has p < {ALPHA} (Holm, over groups)": {"color": ORANGE},
    }
    if rows["small"].any():
        marks["few patients"] = {"color": INK, "mfc": "white"}
    handles = [
        Line2D([], [], marker="o", linestyle="", label=label, **look)
        for label, look in marks.items()
    ]
    place = {"loc": "outside lower center", "ncols": len(marks), "fontsize": 8, "frameon": False}
    figure.legend(handles=handles, **place)
    return figure
