"""In: validation targets and probabilities (N, F). Out: a threshold per finding and rule, and what
it does on test.

The rules, each read off one finding's validation images: `f1` maximises F1; `youden` maximises
sensitivity + specificity - 1 (Youden 1950); `sensitivity` is the highest threshold that finds at
least `SENSITIVITY` of the positive images. With few positives such an optimum is luck, so a finding
with fewer than `MIN_POSITIVES` of them, or without a negative image, gets one stated fallback
instead, and its rows say so.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.metrics.bootstrap import finding_interval, images_where, patient_codes, resample_counts
from lib.metrics.scores import (
    HALF,
    MIN_PATIENTS,
    best_f1_thresholds,
    checked,
    evaluate,
    operating_points,
    positive_patients,
    ratio,
)

RULES = ("f1", "youden", "sensitivity")
SENSITIVITY = 0.9
MIN_POSITIVES = 10
TEST_METRICS = ("sensitivity", "specificity", "precision", "f1")


def choose_thresholds(
    targets: np.ndarray, probs: np.ndarray, findings: Sequence[str], prevalence: Sequence[float]
) -> pd.DataFrame:
    """Thresholds from validation targets (N, F) with NaN and probs (N, F): one row per finding and
    rule, in order.

    Columns: finding, rule, threshold, source, val_positives, and val_sensitivity, val_specificity,
    val_f1 at that threshold: on the images that chose it, so a little too good. A threshold is a
    probability that occurs; of equally good ones the highest is taken. source is 'validation' or,
    where positives are too few, 'fallback': the threshold at which the share of validation images
    called positive is nearest to `prevalence` (F,), the share of positives in training. That is a
    quantile of the probabilities and needs no validation label. It is taken over the images
    annotated for the finding, or over all where none is. Where prevalence is NaN or 0, source is
    'default' and the threshold 0.5. Raises ValueError as `evaluate`, and where a prevalence is no
    share.
    """
    targets, probs = checked(targets, probs, findings)
    shares = _checked_shares(prevalence, findings)
    positives, negatives = (targets == 1).sum(axis=0), (targets == 0).sum(axis=0)
    enough = (positives >= MIN_POSITIVES) & (negatives > 0)
    chosen = np.stack(
        [
            best_f1_thresholds(targets, probs),
            np.full(len(findings), HALF),
            np.full(len(findings), HALF),
        ]
    )
    source = np.full(len(findings), "validation", dtype=object)
    for j, (y, p) in enumerate(zip(targets.T, probs.T, strict=True)):
        if enough[j]:
            chosen[1:, j] = _youden(y, p), _sensitive(y, p)
        else:
            chosen[:, j], source[j] = _without_labels(y, p, shares[j])
    tables = []
    for rule, thresholds in zip(RULES, chosen, strict=True):
        scores = evaluate(targets, probs, findings, thresholds).iloc[:-1][
            ["sensitivity", "specificity", "f1"]
        ]
        table = pd.DataFrame(
            {"finding": list(findings), "rule": rule, "threshold": thresholds, "source": source}
        )
        tables.append(
            pd.concat([table.assign(val_positives=positives), scores.add_prefix("val_")], axis=1)
        )
    return pd.concat(tables).sort_index(kind="stable").reset_index(drop=True)


def f1_threshold(y: np.ndarray, p: np.ndarray, share: float) -> tuple[float, str]:
    """The threshold of one finding by the rule `f1`, and its source, as `choose_thresholds` gives
    them for y (n,) with NaN, p (n,) and the prevalence `share`."""
    positives, negatives = int((y == 1).sum()), int((y == 0).sum())
    if positives < MIN_POSITIVES or not negatives:
        return _without_labels(y, p, share)
    return float(best_f1_thresholds(y[:, None], p[:, None])[0]), "validation"


def apply_thresholds(
    chosen: pd.DataFrame,
    targets: np.ndarray,
    probs: np.ndarray,
    patients: Sequence,
    n: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """What the thresholds of `choose_thresholds` do on test targets (N, F) and probs (N, F),
    patients (N,).

    Its rows, and beside them positives, negatives, and sensitivity, specificity, precision and f1,
    each with _low and _high: 95 % percentile intervals over n resamples of patients, the same as
    `bootstrap_interval` draws, for f1 those of `bootstrap.finding_interval`; none where fewer than
    MIN_PATIENTS patients have an image of the class. Thresholds are fixed, so the luck of choosing
    them on validation is not in the intervals. NaN where a number is not defined (precision:
    nothing called positive); such resamples are left out. Fewer than two patients: no interval. The
    columns of targets are the findings in the order of `chosen`. Raises ValueError as `evaluate`,
    and where a patient is missing.
    """
    findings = list(dict.fromkeys(chosen["finding"]))
    targets, probs = checked(targets, probs, findings)
    codes, count = patient_codes(patients, len(targets))
    columns = [findings.index(name) for name in chosen["finding"]]  # (K,)
    called = probs[:, columns] >= chosen["threshold"].to_numpy(float)  # (N, K)
    positive, negative = (targets == value for value in (1, 0))  # (N, F)
    masks = np.hstack(
        [called & positive[:, columns], called & negative[:, columns], positive, negative]
    )

    def scores(images: np.ndarray) -> dict[str, np.ndarray]:
        tp, fp, both = np.split(
            images, [len(columns), 2 * len(columns)], axis=1
        )  # (B, K), (B, K), (B, 2F)
        return _scores(tp, fp, both[:, columns], both[:, len(findings) :][:, columns])

    points = scores(masks.sum(axis=0, keepdims=True))
    nothing = np.zeros((1, masks.shape[1]))
    resampled = scores(
        images_where(masks, codes, resample_counts(count, n, seed)) if count > 1 else nothing
    )
    table = chosen.reset_index(drop=True).assign(
        positives=positive.sum(axis=0)[columns], negatives=negative.sum(axis=0)[columns]
    )
    people = [counts[columns] for counts in positive_patients(targets, patients)]
    enough = {"specificity": people[1] >= MIN_PATIENTS}  # of the class that the metric is about
    for metric in TEST_METRICS:
        limits = (
            pd.DataFrame(resampled[metric]).quantile([0.025, 0.975]).to_numpy()
        )  # pandas leaves NaN out
        if metric == "f1":
            limits = finding_interval(metric, points[metric][0], resampled[metric], *people)
        shown = enough.get(metric, people[0] >= MIN_PATIENTS)
        low, high = (np.where(shown, limit, np.nan) for limit in limits)
        table[metric], table[f"{metric}_low"], table[f"{metric}_high"] = (
            points[metric][0],
            low,
            high,
        )
    return table


def _scores(
    tp: np.ndarray, fp: np.ndarray, positives: np.ndarray, negatives: np.ndarray
) -> dict[str, np.ndarray]:
    """`TEST_METRICS` from counts of images, all of one shape; NaN where not defined."""
    called = tp + fp
    return {
        "sensitivity": ratio(tp, positives, positives > 0),
        "specificity": ratio(negatives - fp, negatives, negatives > 0),
        "precision": ratio(tp, called, called > 0),
        "f1": ratio(2 * tp, called + positives, positives > 0),
    }


def _youden(y: np.ndarray, p: np.ndarray) -> float:
    threshold, tp, fp = operating_points(y, p)
    return threshold[
        np.argmax(tp * fp[-1] - fp * tp[-1])
    ]  # J x positives x negatives: whole numbers, ties exact


def _sensitive(y: np.ndarray, p: np.ndarray) -> float:
    threshold, tp, _ = operating_points(y, p)
    return threshold[np.argmax(tp / tp[-1] >= SENSITIVITY)]


def _without_labels(y: np.ndarray, p: np.ndarray, share: float) -> tuple[float, str]:
    """The threshold that calls `share` of the images positive, as nearly as ties and numbers allow,
    and its source."""
    annotated = ~np.isnan(y)
    p = np.sort(p[annotated] if annotated.any() else p)
    if not len(p) or not share > 0:  # NaN compares false
        return HALF, "default"
    thresholds, below = np.unique(p, return_index=True)
    off = np.abs((len(p) - below) / len(p) - share)[::-1]  # highest threshold first
    return thresholds[::-1][np.argmin(off)], "fallback"


def _checked_shares(prevalence: Sequence[float], findings: Sequence[str]) -> np.ndarray:
    shares = np.asarray(prevalence, dtype=float)
    if shares.shape != (len(findings),):
        raise ValueError(
            f"prevalence must be one share per finding, shape ({len(findings)},); got shape {shares.shape}"
        )
    for name, share in zip(findings, shares, strict=True):
        if not (np.isnan(share) or 0 <= share <= 1):
            raise ValueError(
                f"prevalence of {name} is {share:g}; it must be a share from 0 to 1, or NaN where unknown"
            )
    return shares
