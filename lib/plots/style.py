"""In: a size and a title. Out: figures in one style, one colour per backbone everywhere."""

import re
import zlib
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PHANTOM_NOTE = "synthetic phantoms - not patients"
INK, GREY, BLUE, ORANGE = "#222222", "#767676", "#0072B2", "#D55E00"


def new_figure(width: float, height: float, *, phantom: bool = False) -> Figure:
    """An empty Figure of width x height inches; with `phantom`, a strip at its top says what the
    images are.

    pyplot makes it, so that Jupyter shows it as a cell's last value, and forgets it at once, so
    that it is shown once.
    """
    figure = plt.figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    plt.close(figure)
    if phantom:
        strip = 0.24 / height
        figure.get_layout_engine().set(rect=(0, 0, 1, 1 - strip))
        box = {"boxstyle": "round,pad=0.25", "facecolor": "#FFF1D6", "edgecolor": "none"}
        figure.text(
            1 - 0.06 / width,
            1 - 0.06 / height,
            PHANTOM_NOTE,
            ha="right",
            va="top",
            size=8,
            color="#7A4300",
            bbox=box,
        )
    return figure


def style(axes: Axes, *, grid: str = "both") -> None:
    """Light frame and grid (grid: 'x', 'y' or 'both') behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color="#E4E4E4", linewidth=0.7)


def wrap(name: object, width: int = 26) -> str:
    """A name on lines of at most `width` letters, broken after blanks, underscores and hyphens
    where possible."""
    lines = []
    for line in str(name).splitlines():
        lines.append("")
        for piece in re.findall(rf"[^\s_-]{{0,{width - 1}}}[\s_-]|[^\s_-]{{1,{width}}}", line):
            if lines[-1] and len((lines[-1] + piece).rstrip()) > width:
                lines.append("")
            lines[-1] += piece
    return "\n".join(line.strip() for line in lines)


def heat_map(
    axes: Axes,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    texts: Sequence[Sequence[str]],
    limits: tuple[float, float],
    label: str,
) -> None:
    """Colour values (R, C) between limits, with texts (R, C) in the cells and a colour bar; NaN is
    left grey."""
    colours = colormaps["cividis"].with_extremes(bad="#DDDDDD")
    image = axes.imshow(
        np.ma.masked_invalid(values), cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto"
    )
    axes.set_xticks(range(len(columns)), [wrap(name, 34) for name in columns], fontsize=9)
    slanted = len(columns) > 1 and max(map(len, map(str, columns))) > 6
    if slanted:
        axes.tick_params("x", rotation=40, rotation_mode="xtick")
    axes.set_yticks(range(len(rows)), [wrap(name) for name in rows], fontsize=9)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for i, j in np.ndindex(values.shape):
        dark = np.isnan(values[i, j]) or image.norm(values[i, j]) > 0.55
        axes.text(
            j, i, texts[i][j], ha="center", va="center", fontsize=8, color=INK if dark else "white"
        )
    axes.figure.colorbar(image, ax=axes, label=label, pad=0.02, fraction=0.05, aspect=60)


# the first that the backbone's name contains; colours of Okabe and Ito (2008) and Tol (2021)
FAMILIES = (
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
    ("mobilenet", "#4477EE"),
    ("densenet", "#882255"),
    ("convnext", "#117733"),
)
OTHERS = ("#44AA99", "#AA4499", "#999933", "#777777", "#CC6677", "#6699CC")  # by a hash of the name


def backbone_colour(backbone: str) -> str:
    """The colour of a timm backbone in every figure: by architecture, whatever its weights (the
    name after the dot)."""
    name = backbone.split(".")[0].lower()
    family = next((colour for family, colour in FAMILIES if family in name), None)
    return family or OTHERS[zlib.crc32(name.encode()) % len(OTHERS)]
