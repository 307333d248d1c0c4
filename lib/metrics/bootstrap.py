"""In: targets, probabilities and the patient of each image. Out: 95 % intervals of the metrics,
patients resampled."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from lib.metrics.ranking import rank, ranked_scores
from lib.metrics.scores import (
    MACRO,
    MIN_PATIENTS,
    auroc,
    average_precision,
    checked,
    counted_findings,
    cuts,
    f1,
    mean_defined,
    positive_patients,
    ratio,
)

INTERVAL_METRICS = ("auroc", "average_precision", "f1")
LEAST = {"auroc": MIN_PATIENTS, "average_precision": MIN_PATIENTS, "f1": 10}
"""Patients with a positive image, and with a negative one, below which a single finding gets no
interval; of any other metric MIN_PATIENTS."""
LEVEL, ALPHA, POWER = 0.95, 0.05, 0.8
"""Of intervals, of tests, and of the smallest difference that is called detectable."""
_BLOCK = 2**21  # numbers in one block of resamples: 8 MiB of weights


def bootstrap_interval(
    targets: np.ndarray,
    probs: np.ndarray,
    patients: Sequence,
    findings: Sequence[str],
    thresholds: np.ndarray | None = None,
    *,
    n: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """95 % intervals by patient: one row per finding, then `macro`, to merge with `evaluate` on
    `finding`.

    Columns: finding, then auroc_low, auroc_high and so on for each of `INTERVAL_METRICS`. Findings:
    Student's on the logit scale (`finding_interval`), NaN with too few patients. Macro, over
    `metrics.counted_findings`: see `macro_interval`. A resample that lost one class of a finding is
    left out of that finding's interval; its macro is the mean over the other findings. Fewer than
    two patients: NaN. Raises ValueError as `evaluate` and `bootstrap_scores`.
    """
    targets, probs = checked(targets, probs, findings)
    counted, people = counted_findings(targets, patients), positive_patients(targets, patients)
    table = pd.DataFrame({"finding": [*findings, MACRO]})
    resampled = bootstrap_scores(targets, probs, patients, thresholds, n=n, seed=seed)
    points = point_scores(targets, probs, thresholds)
    for metric, scores in resampled.items():
        low, high = finding_interval(metric, points[metric], scores, *people)
        if len(findings) == 1:
            ends = low[0], high[0]
        else:
            ends = macro_interval(
                metric, mean_defined(points[metric][counted]), mean_defined(scores[:, counted])
            )
        table[f"{metric}_low"], table[f"{metric}_high"] = [*low, ends[0]], [*high, ends[1]]
    return table


def finding_interval(
    metric: str,
    value: np.ndarray,
    resampled: np.ndarray,
    positives: np.ndarray,
    negatives: np.ndarray,
    error: np.ndarray | None = None,
    df: np.ndarray | float = np.inf,
) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of each finding's score: low and high (F,), in [0, 1]; NaN with fewer
    patients than LEAST says.

    value: (F,); resampled: (n, F) of patients; positives, negatives: (F,) patients with such an
    image; error: (F,) the standard error where it holds more than patients do, with its degrees of
    freedom df. On the logit scale, with Student's quantile for the patients of the rarer class. In
    simulations it covers the true AUROC and average precision in 93 to 98 % from 5 positive
    patients on, F1 from 10 on (tests/test_coverage.py); the percentile bootstrap covered 89, 93 and
    85 % with 5 to 9.
    """
    rarer = np.minimum(positives, negatives)
    of_patients, of_logits = spread(resampled), spread(_logit(resampled))
    with np.errstate(invalid="ignore", divide="ignore"):
        wider = 1.0 if error is None else np.where(of_patients > 0, error / of_patients, 1.0)
        reach = stdtrit(np.maximum(np.minimum(df, rarer - 1), 1), 0.975) * of_logits * wider
        ends = [1 / (1 + np.exp(-(_logit(value) + sign * reach))) for sign in (-1, 1)]
    low, high = np.minimum(ends[0], value), np.maximum(ends[1], value)  # a score of 0 or 1 is in it
    enough = rarer >= LEAST.get(metric, MIN_PATIENTS)
    return np.where(enough, low, np.nan), np.where(enough, high, np.nan)


def _logit(scores: np.ndarray) -> np.ndarray:
    inside = np.clip(scores, 1e-3, 1 - 1e-3)
    return np.log(inside / (1 - inside))


def macro_interval(metric: str, value: float, resampled: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a mean over findings from its resamples (n,); NaN where there are none.

    AUROC and F1: percentiles. Average precision: the normal interval around the score less its
    `bias`.
    """
    defined = resampled[~np.isnan(resampled)]
    if len(defined) < 2:
        return np.nan, np.nan
    if metric != "average_precision":
        low, high = np.quantile(defined, [0.025, 0.975])
        return float(low), float(high)
    middle, reach = value - bias(value, defined), 1.96 * defined.std(ddof=1)
    return float(max(middle - reach, 0.0)), float(min(middle + reach, 1.0))


def bias(value: float, resampled: np.ndarray) -> float:
    """How much too high a macro average precision is on a small test set, from its resamples (n,).

    Twice what resampling adds to it again: in simulations of 50 to 400 patients the score was 0.075
    to 0.018 too high, and its resamples once more by 0.026 to 0.010. Intervals around the score
    less this cover in 90 to 92 %, less the bootstrap's own bias in 80 to 93 %, percentiles in 20 to
    30 % (tests/test_coverage.py).
    """
    return 2 * float(mean_defined(resampled) - value)


def point_scores(
    targets: np.ndarray, probs: np.ndarray, thresholds: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """metric -> (F,), for each of `INTERVAL_METRICS`."""
    columns = list(zip(targets.T, probs.T, cuts(thresholds, targets.shape[1])[0], strict=True))
    return {
        "auroc": np.array([auroc(y, p) for y, p, _ in columns]),
        "average_precision": np.array([average_precision(y, p) for y, p, _ in columns]),
        "f1": np.array([f1(y, p, t) for y, p, t in columns]),
    }


def spread(resampled: np.ndarray) -> np.ndarray:
    """The standard deviation of the resamples (n, F) that are not NaN: (F,); NaN with fewer than
    two."""
    counted = (~np.isnan(resampled)).sum(axis=0) > 1
    error = np.full(resampled.shape[1], np.nan)
    error[counted] = np.nanstd(resampled[:, counted], axis=0, ddof=1)
    return error


def bootstrap_scores(
    targets: np.ndarray,
    probs: np.ndarray,
    patients: Sequence,
    thresholds: np.ndarray | None = None,
    *,
    n: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """AUROC, average precision and F1 of n resamples of patients: {metric: (n, F)}, NaN where a
    class is missing.

    The cluster bootstrap (Davison and Hinkley 1997, section 3.8): each resample draws as many
    patients as there are, with replacement, each with all images. The same set of patients, n and
    seed give the same resamples in any row order, so that two models' scores are paired. A resample
    is a count per patient: images are sorted once, not per resample. Thresholds (F,) are fixed, 0.5
    where NaN or None. Raises ValueError as `evaluate`, and where a patient is missing.
    """
    targets, probs = checked(targets, probs)
    codes, count = patient_codes(patients, len(targets))
    if count < 2:  # nothing to resample
        return {metric: np.full((n, targets.shape[1]), np.nan) for metric in INTERVAL_METRICS}
    counts = resample_counts(count, n, seed)  # (n, patients)
    area, precision = _ranked(targets, probs, codes, counts)
    annotated, positive = ~np.isnan(targets), targets == 1
    called = (probs >= cuts(thresholds, targets.shape[1])[0]) & annotated
    tp, calls, positives = (
        images_where(mask, codes, counts) for mask in (called & positive, called, positive)
    )
    return {
        "auroc": area,
        "average_precision": precision,
        "f1": ratio(2 * tp, calls + positives, positives > 0),
    }


def patient_codes(patients: Sequence, images: int) -> tuple[np.ndarray, int]:
    """The patient of each image as a whole number (N,), and how many patients there are; ValueError
    where missing."""
    codes, names = pd.factorize(np.asarray(patients, dtype=object), sort=True)
    if len(codes) != images or (codes < 0).any():
        raise ValueError(
            f"patients must name one patient for each of the {images} images; got {len(codes)}, "
            f"{int((codes < 0).sum())} of them missing"
        )
    return codes, len(names)


def _ranked(targets: np.ndarray, probs: np.ndarray, codes: np.ndarray, counts: np.ndarray) -> tuple:
    """AUROC and average precision (n, F) of the resamples counts (n, patients); codes (N,) name
    images' patients."""
    scores = np.full((2, len(counts), targets.shape[1]), np.nan)
    step = max(1, _BLOCK // len(targets))
    for j in range(targets.shape[1]):
        annotated = ~np.isnan(targets[:, j])
        if len(np.unique(targets[annotated, j])) < 2:
            continue
        ranking = rank(targets[annotated, j], probs[annotated, j], codes[annotated])
        for start in range(0, len(counts), step):
            block = slice(start, start + step)
            scores[:, block, j] = ranked_scores(ranking, counts[block])
    return scores[0], scores[1]


def resample_counts(patients: int, n: int, seed: int) -> np.ndarray:
    """How often each of n resamples draws each patient: (n, patients), whole numbers as float32."""
    drawn = np.random.default_rng(seed).integers(patients, size=(n, patients))
    drawn += np.arange(n)[:, None] * patients
    return (
        np.bincount(drawn.ravel(), minlength=n * patients).reshape(n, patients).astype(np.float32)
    )


def images_where(mask: np.ndarray, codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Images of each resample where mask (N, F) holds: (n, F), exact as long as they are fewer than
    2**24."""
    sums = [np.bincount(codes, column, minlength=counts.shape[1]) for column in mask.T]
    return (counts @ np.array(sums, dtype=np.float32).reshape(-1, counts.shape[1]).T).astype(float)
