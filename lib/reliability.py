"""In: targets and probabilities (N, F). Out: how far the probabilities mean what they say: scores and bins."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from lib.metrics import MACRO, checked

_EPS = np.finfo(float).eps  # a log loss takes no probability nearer to 0 or 1, as scikit-learn's


def calibration_scores(targets: np.ndarray, probs: np.ndarray, findings: Sequence[str], bins: int = 15) -> pd.DataFrame:
    """How far probs (N, F) mean what they say on targets (N, F) with NaN: one row a finding, then the row `macro`.

    brier: mean squared error (Brier 1950); brier_reference: that of answering the share of positives to every image;
    ece: expected calibration error over `reliability`'s bins of equal counts (Nixon et al. 2019), which chance alone
    raises where images are few, so compare it on the same images only; log_loss, and positives. NaN where nothing
    is annotated. The macro row holds means over the other findings, and all positives. Raises ValueError as `evaluate`.
    """
    targets, probs = checked(targets, probs, findings)
    rows = []
    for name, y, p in zip(findings, targets.T, probs.T, strict=True):
        known = ~np.isnan(y)
        y, p = y[known], p[known]
        row = {"finding": name, "brier": np.nan, "brier_reference": np.nan, "ece": np.nan, "log_loss": np.nan}
        if len(y):
            predicted, observed, count = reliability(y, p, bins)
            row |= {"brier": np.mean((p - y) ** 2), "brier_reference": np.mean(y) * np.mean(1 - y)}
            row |= {"ece": np.abs(predicted - observed) @ count / len(y), "log_loss": log_losses(y, p).mean()}
        rows.append(row | {"positives": int(y.sum())})
    table = pd.DataFrame(rows)
    means = table.drop(columns=["finding", "positives"]).mean().to_dict()
    return pd.DataFrame([*rows, {"finding": MACRO, **means, "positives": int(table["positives"].sum())}])


def calibration_table(
    targets: np.ndarray, probs: np.ndarray, calibrated: np.ndarray, findings: Sequence[str]
) -> pd.DataFrame:
    """`calibration_scores` of probs, and beside them those of calibrated as brier_, ece_ and log_loss_calibrated."""
    before, after = (calibration_scores(targets, values, findings) for values in (probs, calibrated))
    after = after[["brier", "ece", "log_loss"]].add_suffix("_calibrated")
    return pd.concat([before, after], axis=1)


def reliability(y: np.ndarray, p: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share of positives and number of images of each bin, lowest first, of y (n,) and p (n,).

    Bins hold equal counts of images, as far as ties allow: equal probabilities stay in one bin, the one in which the
    middle of them stands; bins left empty are not returned. y is 0, 1 or NaN, which is skipped. Raises ValueError
    where bins < 1.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1; got {bins}")
    y, p = np.asarray(y, dtype=float), np.asarray(p, dtype=float)
    y, p = y[~np.isnan(y)], p[~np.isnan(y)]
    which = ((rankdata(p) - 0.5) * bins / max(1, len(p))).astype(int)  # (n,) by midrank
    count = np.bincount(which, minlength=bins)
    full = count > 0
    predicted, observed = (np.bincount(which, values, minlength=bins)[full] / count[full] for values in (p, y))
    return predicted, observed, count[full]


def log_losses(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    return -np.log(np.clip(np.where(y == 1, p, 1 - p), _EPS, 1 - _EPS))
