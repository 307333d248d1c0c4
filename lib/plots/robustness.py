"""In: AUROC under corruption, and films at every strength. Out: a panel of curves per corruption,
and a grid of example films."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.plots.style import GREY, INK, backbone_colour, new_figure, style, wrap

MOST = 6
"""Arms in one figure: more lines cannot be told apart."""
OTHERS = ("#D55E00", "#009E73", "#AA4499", "#56B4E9", "#999933", "#661100")
"""Of arms with the reference's backbone; of Okabe and Ito (2008) and Tol (2021)."""
LINES = ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))


def robustness_curves(
    table: pd.DataFrame, reference: str, backbones: Mapping[str, str], *, phantom: bool = False
) -> Figure:
    """Macro AUROC against the strength of each corruption, one line per arm with its 95 % interval as
    a band: one panel per corruption.

    table: of `robustness.Robustness`. backbones: arm -> backbone, which gives the colour; arms that
    share the reference's have one of their own. Of many arms the reference is drawn, and those whose
    area differs most from its own; a line of text says so. Raises ValueError where there is no arm.
    """
    if table.empty:
        raise ValueError("the figure of corruption needs at least one arm; got none")
    arms = list(dict.fromkeys(table["arm"]))
    shown = _shown(table, arms, reference)
    looks = _looks(shown, reference, backbones)
    steps = table[(table["measure"] == "auroc") & table["arm"].isin(shown)]
    kinds = [name for name in dict.fromkeys(steps["corruption"]) if name != "none"]
    lines = -(-len(kinds) // 4)
    figure = new_figure(11, 0.9 + 2.5 * lines, phantom=phantom)
    panels = figure.subplots(lines, min(4, len(kinds)), sharey=True, squeeze=False)
    for axes, name in zip(panels.flat, kinds, strict=False):
        for arm in shown:
            mine = steps[(steps["arm"] == arm) & steps["corruption"].isin(["none", name])]
            _curve(axes, mine.sort_values("strength"), looks[arm])
        _label(axes, steps[steps["corruption"] == name].drop_duplicates("strength"), name)
    for axes in panels.flat[len(kinds) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("macro AUROC", fontsize=9)
    handles = [
        Line2D([], [], **looks[arm], label=wrap(arm + " (reference)" * (arm == reference), 34))
        for arm in shown
    ]
    handles.append(Line2D([], [], color=GREY, linestyle=":", label="chance"))
    title = "bands: 95 % intervals over patients and trainings"
    if len(shown) < len(arms):
        title += f"; {len(shown)} of {len(arms)} arms, those that differ most from the reference"
    place = {"loc": "outside lower center", "ncols": 4, "fontsize": 8, "frameon": False}
    figure.legend(handles=handles, title=title, title_fontsize=8, **place)
    return figure


def _shown(table: pd.DataFrame, arms: Sequence[str], reference: str) -> list[str]:
    """The reference and at most MOST - 1 other arms, in the order of the table."""
    whole = table[(table["measure"] == "area") & (table["corruption"] == "all")].set_index("arm")
    apart = whole["difference"].abs().sort_values(ascending=False, kind="stable")
    others = [arm for arm in apart.index if arm != reference][: MOST - (reference in arms)]
    return [arm for arm in arms if arm == reference or arm in others]


def _looks(arms: Sequence[str], reference: str, backbones: Mapping[str, str]) -> dict[str, dict]:
    """arm -> the colour, width and kind of its line."""
    taken = {backbone_colour(backbones[arm]) for arm in arms if arm == reference}
    looks: dict[str, dict] = {}
    for i, arm in enumerate(one for one in arms if one != reference):
        colour = backbone_colour(backbones[arm])
        if colour in taken:
            colour = next(other for other in OTHERS if other not in taken)
        taken.add(colour)
        looks[arm] = {"color": colour, "linewidth": 1.4, "linestyle": LINES[i % len(LINES)]}
    if reference in arms:
        own = {"color": backbone_colour(backbones[reference]), "linewidth": 2.2, "linestyle": "-"}
        looks[reference] = own
    return looks


def _curve(axes: Axes, rows: pd.DataFrame, look: dict) -> None:
    ends = rows[["low", "high"]].to_numpy(float).T
    axes.fill_between(rows["strength"], *ends, color=look["color"], alpha=0.13, linewidth=0)
    axes.plot(rows["strength"], rows["value"], **look)


def _label(axes: Axes, settings: pd.DataFrame, name: str) -> None:
    """Its title, and the settings in their unit at the strengths."""
    settings = settings.sort_values("strength")
    axes.axhline(0.5, color=GREY, linestyle=":", linewidth=1.2, zorder=1)
    axes.set_title(name, fontsize=9.5, loc="left", fontweight="bold", color=INK)
    ticks = [0, *settings["strength"].astype(int)]
    axes.set_xticks(ticks, ["clean", *(f"{value:g}" for value in settings["setting"])], fontsize=7)
    axes.set_xlabel(settings["unit"].iloc[0], fontsize=8)
    axes.tick_params("y", labelsize=8, labelleft=True)
    axes.margins(x=0.03)
    style(axes)


def corruption_grid(
    films: Mapping[str, np.ndarray],
    settings: Mapping[str, tuple[str, Sequence[float]]],
    *,
    phantom: bool = False,
) -> Figure:
    """One film at every strength: a row per corruption, the clean film first.

    films: corruption -> (6, S, S) uint8; settings: corruption -> its unit and five settings. Raises
    ValueError where there is none.
    """
    if not films:
        raise ValueError("the grid of films needs at least one corruption; got none")
    columns = len(next(iter(films.values())))
    figure = new_figure(1.35 + 1.15 * columns, 0.4 + 1.3 * len(films), phantom=phantom)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    panels = figure.subplots(len(films), columns, squeeze=False)
    for row, (name, each) in zip(panels, films.items(), strict=True):
        unit, values = settings[name]
        for axes, film, text in zip(row, each, ["clean", *(f"{v:g}" for v in values)], strict=True):
            axes.imshow(film, cmap=colormaps["gray"], vmin=0, vmax=255)
            axes.set_title(text, fontsize=7.5, pad=2)
            axes.set_xticks([], [])
            axes.set_yticks([], [])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(
            f"{name}\n{wrap(unit, 14)}", fontsize=8, rotation=0, ha="right", va="center"
        )
    return figure
