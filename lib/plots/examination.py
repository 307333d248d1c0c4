"""In: the tables of an examination. Out: a figure: dose, shortcuts and heat maps by finding."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from lib.plots.style import BLUE, GREY, INK, ORANGE, heat_map, new_figure, style, wrap


def examination(
    signs: pd.DataFrame,
    doses: pd.DataFrame,
    shortcuts: pd.DataFrame,
    heat: pd.DataFrame,
    name: str,
) -> Figure:
    """How the probability rises with the sign, what nuisances do beside it, and whether the heat map
    lies where the sign is: a row per finding that phantoms show.

    The tables are those of `examination.Examination`.
    """
    rows = signs[signs["drawn"]].reset_index(drop=True)
    figure = new_figure(16, max(4.2, 2.8 + 0.42 * len(rows)), phantom=True)
    panels = figure.subplots(1, 3, width_ratios=(1, 2.1, 1))
    _doses(panels[0], rows, doses)
    _shortcuts(panels[1], rows, shortcuts)
    _heat(panels[2], rows, heat)
    figure.suptitle(f"Does {name} look at the sign?", fontsize=11, fontweight="bold", x=0.4)
    _legend(figure)
    return figure


def _doses(axes: Axes, rows: pd.DataFrame, doses: pd.DataFrame) -> None:
    """Mean probabilities at rising contrast, and the interval of the change by the whole sign."""
    for i, row in enumerate(rows.itertuples()):
        ladder = doses[(doses["finding"] == row.finding) & (doses["ladder"] == "contrast")]
        colour = BLUE if row.reacts else GREY
        probs = ladder["prob"].to_numpy()
        axes.plot(probs, np.full(len(probs), i), color=colour, linewidth=1.0, zorder=1)
        sizes = 8 + 40 * ladder["dose"].to_numpy()
        axes.scatter(probs[1:], np.full(len(probs) - 1, i), s=sizes[1:], color=colour, zorder=3)
        axes.plot(probs[0], i, "o", color=colour, mfc="white", markersize=4.5, zorder=3)
        ends = [row.prob_without + end for end in (row.prob_change_low, row.prob_change_high)]
        axes.hlines(i + 0.24, *ends, colors=colour, linewidth=1.6)
        axes.text(
            *(1.02, i, f"{row.contrast_rises:.0%}"),
            transform=axes.get_yaxis_transform(),
            **{"va": "center", "fontsize": 8, "color": INK},
        )
    axes.text(
        1.02, -1.0, "rises at\nevery step", transform=axes.get_yaxis_transform(), fontsize=7.5
    )
    axes.set_xlabel("mean probability, as the sign gets plainer", fontsize=9)
    axes.set_title("dose", loc="left", fontsize=9, fontweight="bold")
    _rows(axes, [wrap(name.replace("_", " ")) for name in rows["finding"]])


def _shortcuts(axes: Axes, rows: pd.DataFrame, table: pd.DataFrame) -> None:
    """The larger shortcut score of the two states, framed where one of them is caught."""
    names = table["nuisance"].drop_duplicates().tolist()
    values = np.full((len(rows), len(names)), np.nan)
    texts = [["" for _ in names] for _ in range(len(rows))]
    for i, finding in enumerate(rows["finding"]):
        for j, name in enumerate(names):
            part = table[(table["finding"] == finding) & (table["nuisance"] == name)]
            scores = part["score"].to_numpy()
            known = scores[~np.isnan(scores)]
            if len(known):
                score = known[np.abs(known).argmax()]
                values[i, j] = abs(score)
                digits = 1 if abs(score) < 9.95 else 0
                texts[i][j] = f"{round(score, digits) + 0.0:.{digits}f}"
            elif part["caught"].any():
                change = part["logit_change"].to_numpy()
                texts[i][j] = f"({change[np.abs(change).argmax()]:+.1f})"
            if part["caught"].any():
                frame = Rectangle((j - 0.47, i - 0.45), 0.94, 0.9, fill=False, zorder=5)
                frame.set(edgecolor=ORANGE, linewidth=2.2)
                axes.add_patch(frame)
    label = "|logit change by nuisance| / change by sign"
    heat_map(axes, values, [""] * len(rows), names, texts, (0, 1.0), label)
    title = "shortcut scores (in brackets: change of the logit, where the sign may do nothing)"
    axes.set_title(title, loc="left", fontsize=9, fontweight="bold")


def _heat(axes: Axes, rows: pd.DataFrame, heat: pd.DataFrame) -> None:
    """The share of the map in the sign's box, with the sign in it and without."""
    places = {name: i for i, name in enumerate(rows["finding"])}
    for row in heat.itertuples():
        i = places[row.finding]
        if np.isnan(row.energy_there):
            axes.text(
                *(0.5, i, "no box"),
                transform=axes.get_yaxis_transform(),
                **{"ha": "center", "va": "center", "fontsize": 8, "color": GREY},
            )
            continue
        which = "follow" if row.moves else "gain"
        other = row.energy_elsewhere if row.moves else row.energy_none
        low, high = (other + getattr(row, f"energy_{which}_{end}") for end in ("low", "high"))
        colour = BLUE if row.follows else GREY
        axes.hlines(i, low, high, colors=colour, linewidth=1.8)
        axes.plot(other + getattr(row, f"energy_{which}"), i, "o", color=colour, markersize=6)
        axes.plot(other, i, "o" if row.moves else "s", color=GREY, mfc="white", markersize=5)
        axes.plot(row.area, i, "|", color=INK, markersize=9)
    axes.set_xlabel("share of the heat map in the sign's box", fontsize=9)
    axes.set_title("heat map", loc="left", fontsize=9, fontweight="bold")
    _rows(axes, [""] * len(rows))


def _rows(axes: Axes, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.tick_params(labelsize=9)
    axes.tick_params("y", length=0)
    axes.locator_params("x", nbins=5)
    style(axes, grid="x")


def _legend(figure: Figure) -> None:
    marks = [
        ("without the sign; contrast 25 to 100 %", {"color": BLUE, "mfc": "white"}),
        ("significant (Holm), else grey", {"color": BLUE}),
        ("caught: a nuisance", {"color": ORANGE, "marker": "s", "mfc": "white"}),
        ("same box, sign elsewhere", {"color": GREY, "mfc": "white"}),
        ("same box, no sign", {"color": GREY, "mfc": "white", "marker": "s"}),
        ("a uniform map", {"color": INK, "marker": "|"}),
        ("95 % interval of the change", {"color": BLUE, "marker": "", "linestyle": "-"}),
    ]
    handles = [
        Line2D([], [], **{"marker": "o", "linestyle": "", "label": label} | look)
        for label, look in marks
    ]
    place = {"loc": "outside lower center", "ncols": len(marks), "fontsize": 8, "frameon": False}
    figure.legend(handles=handles, **place)
