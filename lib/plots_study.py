"""In: the runs of a study. Out: matplotlib Figures that compare them, one colour a backbone everywhere."""

import zlib

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.metrics import MACRO
from lib.plots_data import heat_map, new_figure

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
