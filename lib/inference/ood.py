"""In: embeddings of training films. Out: their statistics as JSON, and how unlike those films
another is. NumPy only.

The score is the Mahalanobis distance to the training embeddings (Lee et al. 2018) with the
covariance of probabilistic PCA (Tipping and Bishop 1999): the largest principal components have a
variance each, and all the others share one, so that variation outside the principal subspace counts
too; it reveals most out-of-distribution images (Wang et al. 2022). Both parts are divided by what
they are on average over the training films and weigh the same: about 1 is usual, larger is
stranger.
"""

import base64
from typing import Any

import numpy as np

COMPONENTS = 64
MIN_FILMS = 20
LEVEL = 0.995  # the share of validation films under the threshold
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.995)
_FLOOR = 1e-7  # of the whole variance: the least that a component or the rest is taken to vary


def unlikeness(embedding: np.ndarray, statistics: dict[str, Any]) -> np.ndarray:
    """(B,) float64 >= 0 of embeddings (B, D): about 1 for a film like those of `statistics`;
    infinite where not finite.

    Raises ValueError when the embeddings have another length than the statistics.
    """
    mean, projection, scale = (_array(statistics[key]) for key in ("mean", "projection", "scale"))
    if embedding.ndim != 2 or embedding.shape[1] != len(mean):
        raise ValueError(
            f"embeddings are {embedding.shape}; the statistics are of (B, {len(mean)}): use one model"
        )
    finite = np.isfinite(embedding).all(1)
    centred = np.where(finite[:, None], np.asarray(embedding, np.float64) - mean, 0.0)  # (B, D)
    along = centred @ projection  # (B, K)
    rest = centred - along @ projection.T  # (B, D)
    within = ((along / scale) ** 2).mean(1)
    beyond = (rest**2).sum(1) / statistics["rest"]
    return np.where(finite, np.sqrt((within + beyond) / 2), np.inf)


def fit_familiarity(train: np.ndarray, val: np.ndarray) -> dict[str, Any]:
    """The statistics of training embeddings (N, D), as JSON: `mean` (D,), `projection` (D, K),
    `scale` (K,), `rest`; `threshold` is the 99.5 % quantile of the score over validation embeddings
    (M, D), whose `quantiles` are told too.

    Raises ValueError when there are fewer than MIN_FILMS of either.
    """
    if min(len(train), len(val)) < MIN_FILMS:
        raise ValueError(
            f"{len(train)} training and {len(val)} validation films are too few to tell what is usual: "
            f"{MIN_FILMS} of each are needed"
        )
    train = np.asarray(train, np.float64)
    mean = train.mean(0).astype(np.float32)
    centred = train - mean  # (N, D)
    count = min(COMPONENTS, len(train) // 4, max(1, train.shape[1] // 2))
    components = np.linalg.svd(centred, full_matrices=False)[2][:count]  # (K, D)
    projection = components.T.astype(np.float16)  # (D, K): rounded before the variances are taken
    along = centred @ projection.astype(np.float64)
    rest = ((centred - along @ projection.T.astype(np.float64)) ** 2).sum(1).mean()
    floor = _FLOOR * (centred**2).sum(1).mean() + np.finfo(np.float32).tiny
    scale = np.sqrt(np.maximum((along**2).mean(0), floor)).astype(np.float32)
    statistics: dict[str, Any] = {
        "mean": _packed(mean),
        "projection": _packed(projection),
        "scale": _packed(scale),
    }
    statistics |= {"rest": float(max(rest, floor)), "films": len(train), "val_films": len(val)}
    scores = unlikeness(val, statistics)
    quantiles = {str(level): float(np.quantile(scores, level)) for level in QUANTILES}
    return statistics | {"threshold": quantiles[str(LEVEL)], "quantiles": quantiles}


def _packed(values: np.ndarray) -> dict[str, Any]:
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return {
        "dtype": values.dtype.name,
        "shape": list(values.shape),
        "base64": base64.b64encode(little.tobytes()).decode("ascii"),
    }


def _array(packed: dict[str, Any]) -> np.ndarray:
    """The float64 array that `_packed` was given."""
    kind = np.dtype(packed["dtype"]).newbyteorder("<")
    return (
        np.frombuffer(base64.b64decode(packed["base64"]), kind)
        .reshape(packed["shape"])
        .astype(np.float64)
    )
