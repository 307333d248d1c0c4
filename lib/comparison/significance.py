"""In: p-values, or variances. Out: corrected p-values, degrees of freedom, power."""

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from lib.metrics.bootstrap import ALPHA, POWER


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values corrected for their number by Holm (1979); NaN stays NaN and is not counted."""
    values = np.asarray(p, dtype=float)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    corrected = np.full(len(values), np.nan)
    steps = values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return corrected


def detectable(
    variance_patients: float, variance_seeds: float, df_seeds: float, alpha: float = ALPHA
) -> float:
    """The smallest true difference that a two-sided test at `alpha` finds with 80 % power, for 5 %
    (t.975 + t.80) standard errors.

    The variances are those of the difference of two means; Satterthwaite's degrees of freedom as in
    the intervals.
    """
    df = satterthwaite(variance_patients, variance_seeds, df_seeds)
    steps = stdtrit(df, 1 - alpha / 2) + stdtrit(df, POWER)
    return float(steps * np.sqrt(variance_patients + variance_seeds))


def satterthwaite(patients: float, seeds: float, df_seeds: float) -> float:
    """Degrees of freedom of the sum of two variances, the first of them known well (Satterthwaite
    1946)."""
    if seeds <= 0 or df_seeds <= 0 or np.isnan(patients + seeds):
        return np.inf
    return float(df_seeds * ((patients + seeds) / seeds) ** 2)
