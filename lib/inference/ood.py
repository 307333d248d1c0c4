"""Score how unlike the training images another image is (out-of-distribution); NumPy only.

In: embeddings of training images. Out: their statistics as JSON, and the score of other images.

The score is the Mahalanobis distance to the training embeddings (Lee et al. 2018) with the
covariance of probabilistic PCA (Tipping and Bishop 1999). Each of the largest principal components
has its own variance. All other components share one variance, so that variation outside the
principal subspace counts too; it reveals most out-of-distribution images (Wang et al. 2022). Each
part is divided by its mean over the training images, and both weigh the same: about 1 is usual, and
larger is more unusual.
"""

import base64
from typing import Any

import numpy as np

COMPONENTS = 64
MIN_FILMS = 20
LEVEL = 0.995  # the share of validation images under the threshold
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.995)
_FLOOR = 1e-7  # smallest variance of a component or the rest, as a share of the total variance


def unlikeness(embedding: np.ndarray, statistics: dict[str, Any]) -> np.ndarray:
    """Return the scores (B,) float64 >= 0 of embeddings (B, D).

    The score is about 1 for an image like those of `statistics`, and infinite for an embedding that
    is not finite. Raises ValueError when the embeddings and the statistics differ in length.
    """
    mean, projection, scale = (_array(statistics[key]) for key in ("mean", "projection", "scale"))
    if embedding.ndim != 2 or embedding.shape[1] != len(mean):
        raise ValueError(
            f"embeddings are {embedding.shape}; the statistics are of (B, {len(mean)}): "
            "use embeddings and statistics of one model"
        )
    finite = np.isfinite(embedding).all(1)
    centred = np.where(finite[:, None], np.asarray(embedding, np.float64) - mean, 0.0)  # (B, D)
    along = centred @ projection  # (B, K)
    rest = centred - along @ projection.T  # (B, D)
    within = ((along / scale) ** 2).mean(1)
    beyond = (rest**2).sum(1) / statistics["rest"]
    return np.where(finite, np.sqrt((within + beyond) / 2), np.inf)


def fit_familiarity(train: np.ndarray, val: np.ndarray) -> dict[str, Any]:
    """Return the statistics of training embeddings `train` (N, D), as JSON.

    Keys are `mean` (D,), `projection` (D, K), `scale` (K,) and `rest`. `threshold` is the 99.5 %
    quantile of the score over validation embeddings `val` (M, D), and `quantiles` holds further
    quantiles. Raises ValueError when there are fewer than MIN_FILMS of either.
    """
    if min(len(train), len(val)) < MIN_FILMS:
        raise ValueError(
            f"{len(train)} training and {len(val)} validation images are too few for statistics of embeddings: "
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
    """Return the array that `_packed` was given, as float64."""
    kind = np.dtype(packed["dtype"]).newbyteorder("<")
    return (
        np.frombuffer(base64.b64decode(packed["base64"]), kind)
        .reshape(packed["shape"])
        .astype(np.float64)
    )
