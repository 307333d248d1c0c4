"""In: targets (N, F) with NaN where not annotated, probabilities (N, F). Out: metrics and
thresholds.

A target is 1 present, 0 absent, NaN not annotated; NaN is the only mask. A soft target, such as the
share of readers who see a finding, lies between: it counts as present from 0.5 on, in every metric
and threshold but those of calibration, which take it as it is. A finding is called
positive where its probability >= its threshold. A metric whose class is missing is NaN, never 0 or
1, and stays out of the means.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

HALF = 0.5
MACRO = "macro"
MIN_PATIENTS = 5
"""A finding counts in a macro mean from so many patients with a positive image on, and as many with
a negative one."""
_COLUMNS = [
    "finding",
    "auroc",
    "average_precision",
    "f1_at_half",
    "threshold",
    "threshold_from",
    "f1",
    "sensitivity",
    "specificity",
    "accuracy",
    "accuracy_all_negative",
    "positives",
    "negatives",
]
_COUNTED = ("auroc", "average_precision", "f1", "specificity", "accuracy")


def auroc(y: np.ndarray, p: np.ndarray) -> float:
    """Area under the ROC curve of one finding, y (N,) and p (N,); NaN where a class is missing.

    The share of (positive, negative) pairs that p puts in order, a tie counting one half (Hanley
    and McNeil 1982), by scikit-learn. Raises ValueError on what is no target or no probability.
    """
    from sklearn.metrics import roc_auc_score

    return _scored(roc_auc_score, y, p)


def average_precision(y: np.ndarray, p: np.ndarray) -> float:
    """Average precision of one finding, y (N,) and p (N,); NaN where a class is missing.

    The step-wise sum of (R_k - R_k-1) P_k over distinct probabilities, without interpolation, by
    scikit-learn. Chance level: `random_average_precision`. Raises ValueError as `auroc`.
    """
    from sklearn.metrics import average_precision_score

    return _scored(average_precision_score, y, p)


def f1(y: np.ndarray, p: np.ndarray, threshold: float = HALF) -> float:
    """F1 of the positive class, y (N,) and p (N,): 0 where no positive is found, NaN where there is
    none."""
    from sklearn.metrics import f1_score

    y, p = _annotated(y, p)
    return float(f1_score(y, p >= threshold, zero_division=0.0)) if (y == 1).any() else np.nan


def epoch_score(row: Any, rule: str) -> Any:
    """The score whose maximum chooses the epoch. row: one row of a history, or the whole table;
    rule: `choose_epoch_by` of Config."""
    columns = {"auroc": "val_auroc", "loss": "val_loss", "last": "epoch"}
    values = row[columns.get(rule, f"val_{rule}")]
    return -values if rule == "loss" else values


def operating_points(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every distinct probability of one finding as a threshold, highest first (G,), with its true
    and false positives.

    y (N,) and p (N,); counts are of annotated images called positive at p >= threshold.
    """
    y, p = _annotated(y, p)
    order = np.argsort(-p, kind="stable")
    last = np.flatnonzero(np.diff(p[order], append=-1))  # the last image of each run of ties
    tp = np.cumsum(y[order] == 1)[last]
    return p[order][last], tp, last + 1 - tp


def best_f1_thresholds(targets: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Per finding the threshold (F,) that maximises F1 on these (validation) targets (N, F) and
    probs (N, F).

    A threshold is a probability that occurs; of several with the same F1 the highest is taken. NaN
    where a finding has no positive image here: `evaluate` then uses 0.5 and says so.
    """
    targets, probs = checked(targets, probs)
    best = np.full(targets.shape[1], np.nan)
    for j in range(targets.shape[1]):
        threshold, tp, fp = operating_points(targets[:, j], probs[:, j])
        if len(tp) and tp[-1] > 0:
            best[j] = threshold[np.argmax(2 * tp / (tp + fp + tp[-1]))]
    return best


def prevalence(targets: np.ndarray) -> np.ndarray:
    """The share of positives among the annotated images of each finding (F,); NaN where none is
    annotated."""
    annotated = ~np.isnan(targets)
    return ratio(
        (np.asarray(targets) >= HALF).sum(axis=0), annotated.sum(axis=0), annotated.any(axis=0)
    )


def positive_patients(
    targets: np.ndarray, patients: Sequence | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """How many patients have a positive image of each finding, and how many a negative one: (F,)
    each.

    targets: (N, F); patients: (N,), by default one per image.
    """
    codes = (
        np.arange(len(targets))
        if patients is None
        else pd.factorize(np.asarray(patients, dtype=object))[0]
    )
    targets = hard_targets(targets)
    counts = [[len(np.unique(codes[column == value])) for column in targets.T] for value in (1, 0)]
    return np.array(counts[0], dtype=int), np.array(counts[1], dtype=int)


def counted_findings(targets: np.ndarray, patients: Sequence | None = None) -> np.ndarray:
    """Which findings count in a macro mean (F,): those with MIN_PATIENTS positive and as many
    negative patients.

    One rule for all arms, since it looks at the test labels alone; the others are reported by
    themselves. A single finding counts always, and so do all where none has enough.
    """
    return some_or_all(enough_patients(targets, patients))


def enough_patients(targets: np.ndarray, patients: Sequence | None = None) -> np.ndarray:
    """Which findings have MIN_PATIENTS positive and as many negative patients (F,)."""
    positives, negatives = positive_patients(targets, patients)
    return (positives >= MIN_PATIENTS) & (negatives >= MIN_PATIENTS)


def some_or_all(enough: np.ndarray) -> np.ndarray:
    """Which findings count (F,): those with enough patients; a single one always, and all where none
    has enough."""
    return enough if enough.any() and len(enough) > 1 else np.ones(len(enough), dtype=bool)


def random_average_precision(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """The expected average precision of random answers to so many images; NaN where a class is
    missing.

    Exact for answers without ties (Bestgen 2015, "Exact expected average precision of the random
    baseline"): more than the prevalence, the more so the fewer images there are.
    """
    expected = []
    for positive, negative in zip(np.atleast_1d(positives), np.atleast_1d(negatives), strict=True):
        count = int(positive + negative)
        if not (positive and negative):
            expected.append(np.nan)
            continue
        share = (positive - 1) / (count - 1)
        expected.append(share + (1 - share) * (1 / np.arange(1, count + 1)).sum() / count)
    return np.array(expected)


def evaluate(
    targets: np.ndarray,
    probs: np.ndarray,
    findings: Sequence[str],
    thresholds: np.ndarray | None = None,
    sources: Sequence[str] | None = None,
    patients: Sequence | None = None,
) -> pd.DataFrame:
    """All metrics of targets (N, F) and probs (N, F): one row per finding, in order, then the row
    `macro`.

    `thresholds` (F,) come from validation (`thresholds.choose_thresholds`); 0.5 where they are NaN
    or None: `threshold_from` says 'validation' or 'default', or what `sources` (F,) says.
    sensitivity, specificity, accuracy and f1 are at `threshold`; f1_at_half at 0.5;
    accuracy_all_negative is the accuracy of answering "no" to every image. The macro row holds
    plain means over the findings that count (`counted_findings`, the column in_macro) and have a
    value, total positives, negatives and positive_patients, and in n_* the number of findings in
    each mean (n_f1 also counts for f1_at_half and sensitivity, n_accuracy for
    accuracy_all_negative); in a finding's row n_* is 1 or 0. patients: (N,), by default one per
    image. A soft target counts as present from 0.5 on. Raises ValueError on shapes that differ,
    targets outside [0, 1] other than NaN, and probabilities that are not finite or not in [0, 1].
    """
    targets, probs = checked(targets, probs, findings)
    cut, given = cuts(thresholds, len(findings))
    if sources is None:
        sources = np.where(given, "validation", "default").tolist()
    rows = [
        {"finding": name, **_finding_row(targets[:, j], probs[:, j], cut[j])}
        | {"threshold_from": sources[j]}
        for j, name in enumerate(findings)
    ]
    table = pd.DataFrame(rows, columns=_COLUMNS)
    counted = counted_findings(targets, patients)
    means = table.drop(
        columns=["finding", "threshold", "threshold_from", "positives", "negatives"]
    )[counted].mean()
    macro = {
        **means.to_dict(),
        "finding": MACRO,
        **table[["positives", "negatives"]].sum().to_dict(),
    }
    table = pd.DataFrame([*rows, macro], columns=_COLUMNS).astype(
        {"positives": int, "negatives": int}
    )
    for name in _COUNTED:
        defined = table[name].iloc[:-1].notna().astype(int)
        table[f"n_{name}"] = [*defined, defined[counted].sum()]
    people, _ = positive_patients(targets, patients)
    return table.assign(positive_patients=[*people, people.sum()], in_macro=[*counted, True])


def _finding_row(y: np.ndarray, p: np.ndarray, threshold: float) -> dict[str, float]:
    area, precision = auroc(y, p), average_precision(y, p)
    y, p = _annotated(y, p)
    called, positive = p >= threshold, y == 1
    positives, negatives = int(positive.sum()), int((~positive).sum())
    return {
        "auroc": area,
        "average_precision": precision,
        "f1_at_half": f1(y, p),
        "threshold": threshold,
        "f1": f1(y, p, threshold),
        "sensitivity": float(ratio((called & positive).sum(), positives, positives > 0)),
        "specificity": float(ratio((~called & ~positive).sum(), negatives, negatives > 0)),
        "accuracy": float(ratio((called == positive).sum(), len(y), len(y) > 0)),
        "accuracy_all_negative": float(ratio(negatives, len(y), len(y) > 0)),
        "positives": positives,
        "negatives": negatives,
    }


def _scored(
    score: Callable[[np.ndarray, np.ndarray], float], y: np.ndarray, p: np.ndarray
) -> float:
    """A score of scikit-learn on the annotated images; NaN where a class is missing."""
    y, p = _annotated(y, p)
    return float(score(y, p)) if len(np.unique(y)) == 2 else np.nan


def mean_defined(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean of what is not NaN; NaN where all is."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=axis)
    return np.where(
        count > 0, np.where(defined, values, 0.0).sum(axis=axis) / np.maximum(count, 1), np.nan
    )


def ratio(part: np.ndarray, whole: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """part / whole where `defined`, else NaN."""
    return np.where(defined, part / np.where(defined, whole, 1), np.nan)


def cuts(thresholds: np.ndarray | None, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The thresholds in use (F,), and which of them were given (F,)."""
    cut = np.full(count, np.nan) if thresholds is None else np.asarray(thresholds, dtype=float)
    if cut.shape != (count,):
        raise ValueError(
            f"thresholds must be one number per finding, shape ({count},); got shape {cut.shape}"
        )
    return np.where(np.isnan(cut), HALF, cut), ~np.isnan(cut)


def _annotated(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The annotated images of one finding, checked: y (n,), p (n,)."""
    y, p = np.asarray(y, dtype=float), np.asarray(p, dtype=float)
    if y.ndim != 1 or y.shape != p.shape:
        raise ValueError(
            f"one finding's targets and probabilities must both be (N,); got {y.shape} and {p.shape}"
        )
    y, p = (values[:, 0] for values in checked(y[:, None], p[:, None]))
    return y[~np.isnan(y)], p[~np.isnan(y)]


def hard_targets(targets: np.ndarray) -> np.ndarray:
    """Targets with NaN as 1 from 0.5 on, else 0, as float64; those that are 0, 1 or NaN stay."""
    targets = np.asarray(targets, dtype=float)
    return np.where(np.isnan(targets), np.nan, targets >= HALF)


def checked(
    targets: np.ndarray,
    probs: np.ndarray,
    findings: Sequence[str] | None = None,
    *,
    soft: bool = False,
) -> tuple:
    """targets (N, F) and probs (N, F) as float64, after the checks that `evaluate` promises; the
    targets as `hard_targets`, unless soft ones are wanted."""
    targets, probs = np.asarray(targets, dtype=float), np.asarray(probs, dtype=float)
    if targets.ndim != 2 or targets.shape != probs.shape:
        raise ValueError(
            f"targets and probs must both be (images, findings); got {targets.shape} and {probs.shape}"
        )
    if findings is not None and len(findings) != targets.shape[1]:
        raise ValueError(
            f"targets have {targets.shape[1]} columns but {len(findings)} findings are named"
        )
    bad_targets = ~(np.isnan(targets) | ((targets >= 0) & (targets <= 1)))
    bad_probs = ~((probs >= 0) & (probs <= 1))  # NaN compares false
    for what, values, bad, allowed in (
        ("target", targets, bad_targets, "from 0 to 1, or NaN (not annotated)"),
        ("probability", probs, bad_probs, "a finite number from 0 to 1 (apply the sigmoid first)"),
    ):
        if bad.any():
            row, column = np.argwhere(bad)[0]
            name = column if findings is None else findings[column]
            raise ValueError(
                f"{what} of image {row}, finding {name}, is {values[row, column]}; it must be {allowed}; "
                f"{int(bad.sum())} such values"
            )
    return (targets if soft else hard_targets(targets)), probs
