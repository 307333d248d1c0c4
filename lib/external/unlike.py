"""In: the out-of-distribution scores of films. Out: how unlike the training films they are, with 95 %
intervals over patients."""

from typing import Any

import numpy as np
import pandas as pd

from lib.external.films import Films
from lib.external.models import Model
from lib.external.rates import wilson
from lib.metrics.bootstrap import patient_codes, resample_counts

ALL = "all films"
UNLIKE = {
    "unlikeness": "unlikeness, median",
    "unlike": "share unlike the training films",
}
RESAMPLES = 1000
_BLOCK = 50  # resamples at a time


def unlike_films(model: Model, scores: np.ndarray, films: Films) -> pd.DataFrame:
    """Two rows of `scores.compare_sides`' columns: the median of the unlikeness scores (N,), about 1 for
    films like the training films, and the share over the card's threshold.

    Internal are the numbers of the validation films, from the card. Of an arm the first member speaks.
    NaN with the reason where the card has no statistics.
    """
    from lib.inference.ood import LEVEL  # with onnxruntime, which reports do without

    known = model.card.get("familiarity")
    rows: list[dict[str, Any]] = [
        {"answers": model.answered_by, "metric": name, "finding": ALL} for name in UNLIKE
    ]
    if not known or np.isnan(scores).all():
        reason = "the model has no statistics of its training films"
        return pd.DataFrame([row | {"external": np.nan, "reason": reason} for row in rows])
    codes, people = patient_codes(films.frame["patient"], len(scores))
    counts = resample_counts(people, RESAMPLES, 0)
    over = (scores > known["threshold"]).astype(float)
    shares = (
        counts @ np.bincount(codes, over, people) / (counts @ np.bincount(codes, minlength=people))
    )
    inside = known.get("quantiles", {})
    internal = (inside.get("0.5", np.nan), 1 - LEVEL)
    medians = np.quantile(_medians(scores, codes, counts), [0.025, 0.975])
    share, error, z = (np.array([one]) for one in (over.mean(), shares.std(ddof=1), 1.96))
    ends = [float(end[0]) for end in wilson(share, error, z, np.array([people]))]
    values = ((float(np.median(scores)), *medians), (float(share[0]), *ends))
    for row, before, (value, low, high) in zip(rows, internal, values, strict=True):
        row |= {"internal": before, "external": value, "external_low": low, "external_high": high}
        row |= {"drop": before - value, "reason": ""}
    return pd.DataFrame(rows)


def _medians(scores: np.ndarray, codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The median of each resample (R,): the first score at which half of its films are reached."""
    order = np.argsort(scores, kind="stable")
    found = []
    for start in range(0, len(counts), _BLOCK):
        reached = counts[start : start + _BLOCK][:, codes[order]].cumsum(axis=1, dtype=np.float64)
        found.append(scores[order][(reached >= reached[:, -1:] / 2).argmax(axis=1)])
    return np.concatenate(found)
