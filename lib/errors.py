"""In: the predictions of a run. Out: its most confident errors, which come together, and labels to look at again."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.metrics import checked, cuts

MISS, FALSE_ALARM = "miss", "false alarm"


def confident_errors(predictions: pd.DataFrame, findings: Sequence[str], each: int = 6) -> pd.DataFrame:
    """Per finding the `each` positive films with the lowest probability and the negative ones with the highest.

    `predictions` is `predictions.parquet` of a run, or part of it. Columns: finding, kind (miss or false alarm),
    image, patient, prob, and above: the percentage of films that the finding's probability ranks lower.
    """
    rows = []
    for name in findings:
        known = predictions[predictions[f"target_{name}"].notna()]
        prob, target = known[f"prob_{name}"], known[f"target_{name}"]
        above = 100 * prob.rank(pct=True)
        told = pd.DataFrame({"finding": name, "image": known["image"], "patient": known["patient"], "prob": prob})
        told = told.assign(above=above).sort_values("prob", kind="stable")
        misses = told[target.loc[told.index] == 1].head(each).assign(kind=MISS)
        alarms = told[target.loc[told.index] == 0].tail(each)[::-1].assign(kind=FALSE_ALARM)
        rows += [misses, alarms]
    columns = ["finding", "kind", "image", "patient", "prob", "above"]
    return pd.concat(rows, ignore_index=True)[columns]


def error_overlap(
    targets: np.ndarray, probs: np.ndarray, thresholds: np.ndarray | None, findings: Sequence[str]
) -> pd.DataFrame:
    """What is called instead of a finding that is missed: percentages, findings missed x findings called wrongly.

    targets (N, F) with NaN, probs (N, F), thresholds (F,). The cell (a, b) is the share of the films with a missed a
    (and an annotated b) that get b as a false alarm; the column `missed` counts the films of the row; NaN where none.
    """
    targets, probs = checked(targets, probs, findings)
    called = probs >= cuts(thresholds, len(findings))[0]
    missed, alarm, known = (targets == 1) & ~called, (targets == 0) & called, ~np.isnan(targets)
    both, whole = missed.T.astype(float) @ alarm, missed.T.astype(float) @ known
    share = np.where(whole > 0, 100 * both / np.maximum(whole, 1), np.nan)
    np.fill_diagonal(share, np.nan)
    table = pd.DataFrame(share, index=list(findings), columns=list(findings))
    table.insert(0, "missed", missed.sum(axis=0))
    return table


def label_noise_candidates(predictions: pd.DataFrame, findings: Sequence[str]) -> pd.DataFrame:
    """Films whose label a confident answer contradicts, the clearest first: labels to look at again, not errors found.

    Confident learning (Northcutt, Jiang and Chuang 2021): a negative film whose probability reaches the mean of the
    positive films, or a positive one that falls to the mean of the negative ones, on films that the model was not
    trained on. Columns: finding, image, patient, label, prob, expected (that mean), margin (how far beyond it, in
    standard deviations of the log odds over the finding's films).
    """
    rows = []
    for name in findings:
        known = predictions[predictions[f"target_{name}"].notna()]
        target, prob = known[f"target_{name}"].to_numpy(), known[f"prob_{name}"].to_numpy(float)
        if len(np.unique(target)) < 2:
            continue
        odds = np.log(np.clip(prob, 1e-7, 1 - 1e-7) / (1 - np.clip(prob, 1e-7, 1 - 1e-7)))
        spread = odds.std() or 1.0
        for label, sign in ((0, 1), (1, -1)):
            expected = prob[target != label].mean()
            limit = np.log(expected / (1 - expected)) if 0 < expected < 1 else np.inf * sign
            margin = sign * (odds - limit) / spread
            found = known[(target == label) & (margin > 0)]
            told = {"finding": name, "image": found["image"], "patient": found["patient"], "label": label}
            told |= {"prob": found[f"prob_{name}"], "expected": expected}
            rows.append(pd.DataFrame(told).assign(margin=margin[(target == label) & (margin > 0)]))
    columns = ["finding", "image", "patient", "label", "prob", "expected", "margin"]
    table = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)
    return table.sort_values("margin", ascending=False, kind="stable", ignore_index=True)[columns]
