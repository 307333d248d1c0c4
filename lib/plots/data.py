"""In: a frame of labels, or images. Out: matplotlib Figures of the data, and the parts that all
figures share."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.config import FINDINGS, NO_FINDING
from lib.metrics.scores import HALF
from lib.plots.style import BLUE, GREY, heat_map, new_figure, style, wrap


def label_counts(
    frame: pd.DataFrame, findings: Sequence[str] = FINDINGS, *, phantom: bool = False
) -> Figure:
    """Images with each finding, and with none of them, as bars; percentages are of the images
    annotated for it.

    `frame` has one column per finding: 1, 0 or NaN (not annotated); a soft target counts from 0.5
    on. No Finding counts images annotated for all.
    """
    labels = (frame[list(findings)] >= HALF).astype(float).where(frame[list(findings)].notna())
    whole = labels.dropna()
    nothing = NO_FINDING if set(findings) == set(FINDINGS) else "none of these"
    present = pd.Series({**labels.sum(), nothing: whole.eq(0).all(axis=1).sum()}, dtype=float)
    annotated = pd.Series({**labels.count(), nothing: len(whole)}, dtype=float)
    present = present.sort_values(kind="stable")
    figure = new_figure(7, 1.2 + 0.28 * len(present), phantom=phantom)
    axes = figure.subplots()
    colours = [GREY if name == nothing else BLUE for name in present.index]
    axes.barh(present.index, present, color=colours, height=0.7)
    for i, (name, count) in enumerate(present.items()):
        share = f"{100 * count / annotated[name]:.1f} %" if annotated[name] else "not annotated"
        axes.annotate(
            f"{count:,.0f}  ({share})",
            (count, i),
            (4, 0),
            textcoords="offset points",
            va="center",
            size=8,
        )
    axes.set_xlim(0, max(1, present.max()) * 1.22)
    axes.set_xlabel("images with the finding (% of images annotated for it)")
    axes.set_title(f"Labels of {len(frame):,} images", loc="left")
    style(axes, grid="x")
    axes.margins(y=0.02)
    axes.tick_params("y", length=0)
    return figure


def cooccurrence(
    frame: pd.DataFrame, findings: Sequence[str] = FINDINGS, *, phantom: bool = False
) -> Figure:
    """Of the images with the row's finding, the percentage that also have the column's; on the
    diagonal their number.

    `frame` as for `label_counts`; only images annotated for both findings count.
    """
    labels = frame[list(findings)].to_numpy(float)
    present, annotated = (labels >= HALF).astype(float), (~np.isnan(labels)).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (
            100 * (present.T @ present) / (present.T @ annotated)
        )  # (F, F); NaN where no image has the row's finding
    texts = [[f"{value:.0f}" if np.isfinite(value) else "-" for value in row] for row in share]
    for i, count in enumerate(present.sum(axis=0)):
        share[i, i], texts[i][i] = np.nan, f"n={count:.0f}"
    size = 2.6 + 0.46 * len(findings)
    figure = new_figure(size + 1.2, size, phantom=phantom)
    axes = figure.subplots()
    top = max(1.0, np.nanmax(share, initial=1.0))
    heat_map(axes, share, findings, findings, texts, (0, top), "images with both (% of the row's)")
    axes.set(ylabel="of the images with ...", xlabel="... this share also has")
    return figure


def image_grid(
    images: np.ndarray,
    titles: Sequence[str] = (),
    *,
    columns: int = 6,
    side: float = 1.6,
    phantom: bool = False,
) -> Figure:
    """Grey images (N, S, S) uint8 in rows of `columns`, each `side` inches, with a title above
    each.

    Raises ValueError where there is no image, or not one title for each.
    """
    images = np.asarray(images)
    if images.ndim != 3 or not len(images) or images.dtype != np.uint8:
        raise ValueError(
            f"images must be (N, S, S) uint8 with N >= 1; got {images.shape} {images.dtype}"
        )
    if len(titles) not in (0, len(images)):
        raise ValueError(f"{len(images)} images need as many titles, or none; got {len(titles)}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    names = [wrap(title, max(8, int(side * 12))) for title in titles]
    lines = max((name.count("\n") + 1 for name in names), default=0)
    figure = new_figure(
        max(2.6, columns * side), rows * (side + 0.15 * lines + 0.08), phantom=phantom
    )
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if i < len(images):
            axes.imshow(images[i], cmap="gray", vmin=0, vmax=255)
            axes.set_title(names[i] if names else "", fontsize=7.5, pad=2)
    return figure
