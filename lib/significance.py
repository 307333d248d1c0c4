"""In: p-values, variances, or two answers to one finding. Out: corrected p-values, power, DeLong's test."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

LEVEL, ALPHA, POWER = 0.95, 0.05, 0.8


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values corrected for their number by Holm (1979); NaN stays NaN and is not counted."""
    p = np.asarray(p, dtype=float)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    corrected = np.full(len(p), np.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return corrected


def detectable(variance_patients: float, variance_seeds: float, df_seeds: float, alpha: float = ALPHA) -> float:
    """The smallest true difference that a two-sided test at `alpha` finds with 80 % power, for 5 % (t.975 + t.80)
    standard errors.

    The variances are those of the difference of two means; Satterthwaite's degrees of freedom as in the intervals.
    """
    df = satterthwaite(variance_patients, variance_seeds, df_seeds)
    steps = stats.t.ppf(1 - alpha / 2, df) + stats.t.ppf(POWER, df)
    return float(steps * np.sqrt(variance_patients + variance_seeds))


def satterthwaite(patients: float, seeds: float, df_seeds: float) -> float:
    """Degrees of freedom of the sum of two variances, the first of them known well (Satterthwaite 1946)."""
    if seeds <= 0 or df_seeds <= 0 or np.isnan(patients + seeds):
        return np.inf
    return float(df_seeds * ((patients + seeds) / seeds) ** 2)


def delong(y: np.ndarray, p: np.ndarray, q: np.ndarray, patients: Sequence | None = None) -> tuple[float, float]:
    """AUROC of p minus that of q on targets y (N,), and its standard error without resampling; NaN where a class lacks.

    DeLong, DeLong and Clarke-Pearson (1988) from placement values; with `patients` (N,) the sums of a patient's images
    take the place of images (Obuchowski 1997). An independent check of the bootstrap for single findings.
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
    sums = [np.bincount(codes, np.where(kind, change - difference, 0.0)) for kind in (positive, ~positive)]
    if patients is None:
        return difference, float(np.sqrt(sum((s**2).sum() / (k * (k - 1)) for s, k in zip(sums, (m, n), strict=True))))
    groups = [len(np.unique(codes[kind])) for kind in (positive, ~positive)]
    parts = [g / (g - 1) * (s**2).sum() / k**2 for s, g, k in zip(sums, groups, (m, n), strict=True)]
    clusters = len(sums[0])
    shared = clusters / (clusters - 1) * (sums[0] * sums[1]).sum() / (m * n)
    return difference, float(np.sqrt(max(sum(parts) + 2 * shared, 0.0)))


def _placements(p: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Share of the other class that each image is on the right side of (N,), ties one half (Sun and Xu 2014)."""
    ranks = stats.rankdata(p)
    within = np.empty(len(p))
    for kind in (positive, ~positive):
        within[kind] = stats.rankdata(p[kind])
    below = ranks - within  # images of the other class with a lower probability, ties one half
    m, n = positive.sum(), (~positive).sum()
    return np.where(positive, below / n, 1 - below / m)
