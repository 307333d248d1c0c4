"""In: targets, probabilities and the patient of each image. Out: 95 % intervals of the metrics, patients resampled."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.metrics import MACRO, checked, cuts, rank, ranked_scores, ratio

INTERVAL_METRICS = ("auroc", "average_precision", "f1")
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
    """95 % percentile intervals by patient: one row a finding, then `macro`, to merge with `evaluate` on `finding`.

    Columns: finding, then auroc_low, auroc_high and so on for each of `INTERVAL_METRICS`. A resample that lost one
    class of a finding is left out of that finding's interval; its macro is the mean over the other findings. Fewer
    than two patients: NaN. Raises ValueError as `evaluate` and `bootstrap_scores`.
    """
    targets, probs = checked(targets, probs, findings)
    table = pd.DataFrame({"finding": [*findings, MACRO]})
    for metric, scores in bootstrap_scores(targets, probs, patients, thresholds, n=n, seed=seed).items():
        values = pd.DataFrame(scores, columns=list(findings))
        limits = values.assign(**{MACRO: values.mean(axis=1)}).quantile([0.025, 0.975])  # pandas leaves NaN out
        table[f"{metric}_low"], table[f"{metric}_high"] = limits.to_numpy()
    return table


def bootstrap_scores(
    targets: np.ndarray,
    probs: np.ndarray,
    patients: Sequence,
    thresholds: np.ndarray | None = None,
    *,
    n: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """AUROC, average precision and F1 of n resamples of patients: {metric: (n, F)}, NaN where a class is missing.

    The cluster bootstrap (Davison and Hinkley 1997, section 3.8): each resample draws as many patients as there are,
    with replacement, each with all images. The same set of patients, n and seed give the same resamples in any row
    order, so that two models' scores are paired. A resample is a count per patient: images are sorted once, not per
    resample. Thresholds (F,) are fixed, 0.5 where NaN or None. Raises ValueError as `evaluate`, and where a
    patient is missing.
    """
    targets, probs = checked(targets, probs)
    codes, count = patient_codes(patients, len(targets))
    if count < 2:  # nothing to resample
        return {metric: np.full((n, targets.shape[1]), np.nan) for metric in INTERVAL_METRICS}
    counts = resample_counts(count, n, seed)  # (n, patients)
    area, precision = _ranked(targets, probs, codes, counts)
    known, positive = ~np.isnan(targets), targets == 1
    called = (probs >= cuts(thresholds, targets.shape[1])[0]) & known
    tp, calls, positives = (images_where(mask, codes, counts) for mask in (called & positive, called, positive))
    f1 = ratio(2 * tp, calls + positives, positives > 0)
    return {"auroc": area, "average_precision": precision, "f1": f1}


def patient_codes(patients: Sequence, images: int) -> tuple[np.ndarray, int]:
    """The patient of each image as a whole number (N,), and how many patients there are; ValueError where missing."""
    codes, names = pd.factorize(np.asarray(patients, dtype=object), sort=True)
    if len(codes) != images or (codes < 0).any():
        raise ValueError(
            f"patients must name one patient for each of the {images} images; got {len(codes)}, "
            f"{int((codes < 0).sum())} of them missing"
        )
    return codes, len(names)


def _ranked(targets: np.ndarray, probs: np.ndarray, codes: np.ndarray, counts: np.ndarray) -> tuple:
    """AUROC and average precision (n, F) of the resamples counts (n, patients); codes (N,) name images' patients."""
    scores = np.full((2, len(counts), targets.shape[1]), np.nan)
    step = max(1, _BLOCK // len(targets))
    for j in range(targets.shape[1]):
        known = ~np.isnan(targets[:, j])
        if len(np.unique(targets[known, j])) < 2:
            continue
        ranking = rank(targets[known, j], probs[known, j], codes[known])
        for start in range(0, len(counts), step):
            block = slice(start, start + step)
            scores[:, block, j] = ranked_scores(ranking, counts[block])
    return scores[0], scores[1]


def resample_counts(patients: int, n: int, seed: int) -> np.ndarray:
    """How often each of n resamples draws each patient: (n, patients), whole numbers as float32."""
    drawn = np.random.default_rng(seed).integers(patients, size=(n, patients))
    drawn += np.arange(n)[:, None] * patients
    return np.bincount(drawn.ravel(), minlength=n * patients).reshape(n, patients).astype(np.float32)


def images_where(mask: np.ndarray, codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Images of each resample where mask (N, F) holds: (n, F), exact as long as they are fewer than 2**24."""
    sums = [np.bincount(codes, column, minlength=counts.shape[1]) for column in mask.T]
    return (counts @ np.array(sums, dtype=np.float32).reshape(-1, counts.shape[1]).T).astype(float)
