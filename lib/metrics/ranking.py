"""In: a finding's targets and probabilities. Out: its ranking, sorted once, and the scores of any
weights of images."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ranking:
    """One finding's images from the highest probability to the lowest, cut into G segments.

    A segment is a run of tied probabilities, or several runs in a row without a positive image
    between them.
    """

    columns: np.ndarray  # (n,) the column of the weights that each image takes, in ranking order
    starts: np.ndarray  # (G,) where each segment starts
    positive_columns: np.ndarray  # (P,) `columns` of the positive images
    positive_starts: (
        np.ndarray
    )  # (S,) where each segment with positives starts in `positive_columns`
    positive_segments: np.ndarray  # (S,) which of the G segments those are


def rank(y: np.ndarray, p: np.ndarray, columns: np.ndarray) -> Ranking:
    """Sort the annotated images of one finding, y (n,) 0 or 1 with both present, p (n,), columns
    (n,) whole numbers."""
    order = np.argsort(-p, kind="stable")
    positive = y[order] == 1
    ties = np.flatnonzero(np.diff(p[order], prepend=-1))
    holds_positive = np.logical_or.reduceat(positive, ties)
    starts = ties[holds_positive | np.concatenate([[True], holds_positive[:-1]])]
    segment = np.searchsorted(starts, np.flatnonzero(positive), side="right") - 1  # (P,)
    segments, first = np.unique(segment, return_index=True)
    return Ranking(columns[order], starts, columns[order][positive], first, segments)


def ranked_scores(ranking: Ranking, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC (B,) and average precision (B,) for weights (B, columns): how often each image counts,
    as float32.

    One row of weights is one resample; images are sorted once for all. NaN where all images of a
    class have weight 0. Example, six images from the highest probability to the lowest:

        image           a     b     c     d     e     f
        target          1     0     1     0     0     1
        weight          1     2     1     0     1     1
        images so far   1     3     4     4     5     6
        positives       1     1     2     2     2     3
        negatives lower 3           1                 0
        precision       1/1         2/4               3/6

    AUROC = (1 x 3 + 1 x 1 + 1 x 0) / (3 positives x 3 negatives) = 4/9; average precision =
    (1/1 + 2/4 + 3/6) / 3 = 2/3.
    """
    inside = np.add.reduceat(
        np.take(weights, ranking.columns, axis=1), ranking.starts, axis=1
    )  # (B, G)
    called = np.cumsum(inside, axis=1, dtype=float)  # (B, G) images down to here
    negatives = called[:, -1:].copy()  # (B, 1) all images, so far
    called = called[:, ranking.positive_segments]  # (B, S)
    inside = inside[:, ranking.positive_segments]  # (B, S)
    pos = np.take(weights, ranking.positive_columns, axis=1)
    pos = np.add.reduceat(pos, ranking.positive_starts, axis=1)  # (B, S)
    tp = np.cumsum(pos, axis=1, dtype=float)
    positives = tp[:, -1:].copy()
    negatives -= positives
    below = (
        negatives - (called - tp) + (inside - pos) / 2
    )  # (B, S) negatives ranked lower, ties one half
    precision = tp / np.maximum(called, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        area = np.einsum("bs,bs->b", pos, below) / (positives * negatives)[:, 0]
        average = np.einsum("bs,bs->b", pos, precision) / positives[:, 0]
    return area, np.where(negatives[:, 0] > 0, average, np.nan)
