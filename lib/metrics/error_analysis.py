"""In: predictions with their labels, heat maps with boxes. Out: confident errors, label noise,
pointing scores."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.metrics.bootstrap import patient_codes, resample_counts
from lib.metrics.scores import HALF, checked, cuts, hard_targets

MISS, FALSE_ALARM = "miss", "false alarm"


def confident_errors(
    predictions: pd.DataFrame, findings: Sequence[str], each: int = 6
) -> pd.DataFrame:
    """Per finding the `each` positive films with the lowest probability and the negative ones with
    the highest.

    `predictions` is `predictions.parquet` of a run, or part of it. Columns: finding, kind (miss or
    false alarm), image, patient, prob, and above: the percentage of films that the finding's
    probability ranks lower.
    """
    rows = []
    for name in findings:
        annotated = predictions[predictions[f"target_{name}"].notna()]
        prob, target = annotated[f"prob_{name}"], annotated[f"target_{name}"]
        above = 100 * prob.rank(pct=True)
        images = pd.DataFrame(
            {
                "finding": name,
                "image": annotated["image"],
                "patient": annotated["patient"],
                "prob": prob,
            }
        )
        images = images.assign(above=above).sort_values("prob", kind="stable")
        misses = images[target.loc[images.index] >= HALF].head(each).assign(kind=MISS)
        alarms = images[target.loc[images.index] < HALF].tail(each)[::-1].assign(kind=FALSE_ALARM)
        rows += [misses, alarms]
    columns = ["finding", "kind", "image", "patient", "prob", "above"]
    return pd.concat(rows, ignore_index=True)[columns]


def error_overlap(
    targets: np.ndarray, probs: np.ndarray, thresholds: np.ndarray | None, findings: Sequence[str]
) -> pd.DataFrame:
    """What is predicted instead of a missed finding: percentages, missed findings x false alarms.

    targets (N, F) with NaN, probs (N, F), thresholds (F,). The cell (a, b) is the share of the
    films with a missed a (and an annotated b) that get b as a false alarm; the column `missed`
    counts the films of the row; NaN where none.
    """
    targets, probs = checked(targets, probs, findings)
    called = probs >= cuts(thresholds, len(findings))[0]
    missed, alarm, annotated = (targets == 1) & ~called, (targets == 0) & called, ~np.isnan(targets)
    both, whole = missed.T.astype(float) @ alarm, missed.T.astype(float) @ annotated
    share = np.where(whole > 0, 100 * both / np.maximum(whole, 1), np.nan)
    np.fill_diagonal(share, np.nan)
    table = pd.DataFrame(share, index=list(findings), columns=list(findings))
    table.insert(0, "missed", missed.sum(axis=0))
    return table


def label_noise_candidates(predictions: pd.DataFrame, findings: Sequence[str]) -> pd.DataFrame:
    """Films whose label a confident prediction contradicts, the clearest first: labels to check,
    not known errors.

    Confident learning (Northcutt, Jiang and Chuang 2021): a negative film whose probability reaches
    the mean of the positive films, or a positive one that falls to the mean of the negative ones,
    on films that the model was not trained on. Columns: finding, image, patient, label, prob,
    expected (that mean), margin (how far beyond it, in standard deviations of the log odds over the
    finding's films).
    """
    rows = []
    for name in findings:
        annotated = predictions[predictions[f"target_{name}"].notna()]
        target, prob = (
            hard_targets(annotated[f"target_{name}"]),
            annotated[f"prob_{name}"].to_numpy(float),
        )
        if len(np.unique(target)) < 2:
            continue
        odds = np.log(np.clip(prob, 1e-7, 1 - 1e-7) / (1 - np.clip(prob, 1e-7, 1 - 1e-7)))
        spread = odds.std() or 1.0
        for label, sign in ((0, 1), (1, -1)):
            expected = prob[target != label].mean()
            limit = np.log(expected / (1 - expected)) if 0 < expected < 1 else np.inf * sign
            margin = sign * (odds - limit) / spread
            found = annotated[(target == label) & (margin > 0)]
            values = {
                "finding": name,
                "image": found["image"],
                "patient": found["patient"],
                "label": label,
            }
            values |= {"prob": found[f"prob_{name}"], "expected": expected}
            rows.append(
                pd.DataFrame(values).assign(margin=margin[(target == label) & (margin > 0)])
            )
    columns = ["finding", "image", "patient", "label", "prob", "expected", "margin"]
    table = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)
    return table.sort_values("margin", ascending=False, kind="stable", ignore_index=True)[columns]


MEASURES = ("pointing", "energy")
BOX_PIXELS = 1024  # BBox_List_2017.csv is in pixels of the originals, 1024 per side


def box_scores(maps: np.ndarray, boxes: np.ndarray) -> pd.DataFrame:
    """How well heat maps (N, h, w), >= 0, meet boxes (N, 4): left, top, width, height as shares of
    the film's sides.

    pointing: 1 where the maximum lies in the box, 0 elsewhere (the pointing game, Zhang et al.
    2016; several equal maxima count by their share). energy: the share of the map's sum inside the
    box (Wang et al. 2020). Both weigh cells that the box covers partly by the covered part. NaN
    where a map is 0 everywhere. centre_pointing and centre_energy are those of a fixed guess, a
    Gaussian at the centre of the film, a quarter of a side wide.
    """
    height, width = maps.shape[1:]
    inside = (
        _coverage(boxes[:, 1], boxes[:, 3], height)[:, :, None]
        * _coverage(boxes[:, 0], boxes[:, 2], width)[:, None]
    )
    y, x = ((np.arange(n) + 0.5) / n - 0.5 for n in (height, width))
    centre = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * 0.25**2))
    table = {}
    for prefix, each in (("", maps), ("centre_", np.broadcast_to(centre, maps.shape))):
        highest = each == each.max(axis=(1, 2), keepdims=True)
        whole = each.sum(axis=(1, 2))
        nonzero = whole > 0
        table[f"{prefix}pointing"] = np.where(
            nonzero, (highest * inside).sum(axis=(1, 2)) / highest.sum(axis=(1, 2)), np.nan
        )
        table[f"{prefix}energy"] = np.where(
            nonzero, (each * inside).sum(axis=(1, 2)) / np.where(nonzero, whole, 1), np.nan
        )
    return pd.DataFrame(table)


def pointing_table(
    scores: pd.DataFrame, findings: Sequence[str], n: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Means of `box_scores` per finding and over all boxes, with 95 % intervals from resampled
    patients.

    `scores` also has the columns finding and patient. A row per finding with boxes, then `all` (no
    row without a box): boxes, patients, and for each of MEASURES the mean, _low, _high, centre_
    (the fixed guess), gain_low and gain_high (of the difference).
    """
    rows = []
    for name in [name for name in findings if (scores["finding"] == name).any()] + ["all"] * (
        len(scores) > 0
    ):
        part = scores if name == "all" else scores[scores["finding"] == name]
        codes, count = patient_codes(part["patient"], len(part))
        weights = (
            resample_counts(count, n, seed)[:, codes]
            if count > 1
            else np.full((1, len(part)), np.nan)
        )
        row = {"finding": name, "boxes": len(part), "patients": count}
        for measure in MEASURES:
            ours, centre = part[measure].fillna(0).to_numpy(), part[f"centre_{measure}"].to_numpy()
            low, high = _limits(weights, ours)
            gain = _limits(weights, ours - centre)
            row |= {measure: ours.mean(), f"{measure}_low": low, f"{measure}_high": high}
            row |= {
                f"centre_{measure}": centre.mean(),
                f"{measure}_gain_low": gain[0],
                f"{measure}_gain_high": gain[1],
            }
        rows.append(row)
    return pd.DataFrame(rows)


def _limits(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.quantile(weights @ values / weights.sum(axis=1), [0.025, 0.975])


def _coverage(start: np.ndarray, length: np.ndarray, cells: int) -> np.ndarray:
    """The covered part of each of `cells` cells of a side by boxes (N,) in shares of that side: (N,
    cells)."""
    edges = np.arange(cells + 1) / cells
    low = np.maximum(start[:, None], edges[:-1])
    high = np.minimum((start + length)[:, None], edges[1:])
    return np.clip(high - low, 0, None) * cells
