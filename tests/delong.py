"""DeLong's test, as an independent check of the bootstrap."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats


def delong(
    y: np.ndarray, p: np.ndarray, q: np.ndarray, patients: Sequence | None = None
) -> tuple[float, float]:
    """AUROC of p minus that of q on targets y (N,), and its standard error without resampling; NaN
    where a class lacks.

    DeLong, DeLong and Clarke-Pearson (1988) from placement values; with `patients` (N,) the sums of
    a patient's images take the place of images (Obuchowski 1997). An independent check of the
    bootstrap for single findings.
    """
    known = ~np.isnan(np.asarray(y, dtype=float))
    y, p, q = (np.asarray(values, dtype=float)[known] for values in (y, p, q))
    codes = np.arange(len(y)) if patients is None else pd.factorize(np.asarray(patients)[known])[0]
    positive = y == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if not (m and n):
        return np.nan, np.nan
    change = _placements(p, positive) - _placements(q, positive)  # (N,)
    difference = float(change[positive].mean())
    sums = [
        np.bincount(codes, np.where(kind, change - difference, 0.0))
        for kind in (positive, ~positive)
    ]
    if patients is None:
        return difference, float(
            np.sqrt(sum((s**2).sum() / (k * (k - 1)) for s, k in zip(sums, (m, n), strict=True)))
        )
    groups = [len(np.unique(codes[kind])) for kind in (positive, ~positive)]
    if min(groups) < 2:  # one patient has all images of a class: nothing shows how patients differ
        return difference, np.nan
    parts = [
        g / (g - 1) * (s**2).sum() / k**2 for s, g, k in zip(sums, groups, (m, n), strict=True)
    ]
    clusters = len(sums[0])
    shared = clusters / (clusters - 1) * (sums[0] * sums[1]).sum() / (m * n)
    return difference, float(np.sqrt(max(sum(parts) + 2 * shared, 0.0)))


def _placements(p: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Share of the other class that each image is on the right side of (N,), ties one half (Sun and
    Xu 2014)."""
    ranks = stats.rankdata(p)
    within = np.empty(len(p))
    for kind in (positive, ~positive):
        within[kind] = stats.rankdata(p[kind])
    below = ranks - within  # images of the other class with a lower probability, ties one half
    m, n = positive.sum(), (~positive).sum()
    return np.where(positive, below / n, 1 - below / m)
