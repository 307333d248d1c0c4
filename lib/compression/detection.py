"""How well exported files tell unusual images from usual ones.

In: exported files, and test images of the runs that they were made from. Out: for each file, how
well its unlikeness separates these images from the same images spoilt.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from lib.compression.images import read_run_films
from lib.files import CARD, read_json
from lib.inference.predictor import Predictor
from lib.metrics.bootstrap import patient_codes, resample_counts

FILMS = 256
RESAMPLES = 1000
BATCH = 64


def detection_table(folder: Path, models: Mapping[str, tuple[str, Path]]) -> pd.DataFrame:
    """Return one row per arm of the study in `folder`: arm, detection, detection_low,
    detection_high.

    models: arm -> its run and that run's exported file. detection is the AUROC of the file's
    unlikeness for the first FILMS test images of the run against the same images spoilt, the mean
    over the kinds of `spoilt`; intervals are 95 %, over patients. NaN for a file without statistics
    of embeddings.
    """
    rows = []
    for arm, (run, path) in models.items():
        place = folder / run
        found = read_run_films(place, read_json(place / CARD))
        images, patients = found.test[:FILMS], found.test_patients[:FILMS]
        names = ("detection", "detection_low", "detection_high")
        values = detection(Predictor(path), images, patients)
        rows.append({"arm": arm, **dict(zip(names, values, strict=True))})
    return pd.DataFrame(rows)


def spoilt(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return images (N, S, S) uint8 as they are shown by mistake, and as many of noise."""
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    return {
        "inverted": 255 - images,
        "turned by 90 degrees": np.rot90(images, 1, axes=(1, 2)),
        "turned by 180 degrees": np.rot90(images, 2, axes=(1, 2)),
        "noise": noise,
    }


def detection(
    model: Predictor, images: np.ndarray, patients: np.ndarray
) -> tuple[float, float, float]:
    """Return the AUROC of unlikeness, mean over `spoilt`, with its 95 % interval: a bootstrap of the
    patients (N,), each with all of their images and what became of them.

    A network that only remembers its findings may answer spoilt images as usual ones: 0.5 is chance.
    """
    usual = _unlikeness(model, images)
    if np.isnan(usual).all():
        return (np.nan,) * 3
    wins = [_wins(usual, _unlikeness(model, other)) for other in spoilt(images).values()]
    mean = np.mean(wins, axis=0)  # (N, N): image i is less unlike than spoilt image j
    codes, count = patient_codes(patients, len(images))
    weights = resample_counts(count, RESAMPLES, seed=0)[:, codes].astype(float)  # (R, N)
    scores = ((weights @ mean) * weights).sum(axis=1) / weights.sum(axis=1) ** 2
    low, high = np.quantile(scores, [0.025, 0.975])
    return float(mean.mean()), float(low), float(high)


def _unlikeness(model: Predictor, images: np.ndarray) -> np.ndarray:
    parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    return np.concatenate([model.predict(np.ascontiguousarray(one)).unlikeness for one in parts])


def _wins(usual: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return for every pair (N, M) 1 where the other image is the more unlike one, 0.5 for a tie."""
    return (usual[:, None] < other) + 0.5 * (usual[:, None] == other)
