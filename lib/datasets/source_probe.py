"""In: small images of several sources. Out: how well a linear model tells the sources apart: what a
network could learn in place of findings (Zech et al. 2018)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.config import FINDINGS
from lib.datasets.splits import unit_hash

SIDE = 16  # px of the thumbnails that are looked at
PER_SOURCE = 500  # images
FOLDS = 5
LEAST = 10
"""Patients of a source, with fewer of which nothing is said."""
CHEATS = 0.9
"""AUROC from which on a model is said to be able to cheat."""


def sample_sources(frame: pd.DataFrame) -> pd.DataFrame:
    """At most PER_SOURCE images of each source, chosen by a hash of their ids."""
    order = [unit_hash(0, "probe", image) for image in frame["image"]]
    drawn = frame.assign(order=order).sort_values("order").groupby("source").head(PER_SOURCE)
    return drawn.drop(columns="order").sort_values(["source", "image"]).reset_index(drop=True)


def film_features(images: np.ndarray) -> np.ndarray:
    """What a network sees first of (N, S, S) uint8: a thumbnail of SIDE x SIDE px, and mean, spread
    and shares of black and of white of the whole and of each border: (N, SIDE * SIDE + 20)."""
    edges = np.linspace(0, images.shape[1], SIDE + 1).astype(int)[:-1]
    areas = np.diff([*edges, images.shape[1]])
    sums = np.add.reduceat(images, edges, axis=1, dtype=np.float64)
    small = np.add.reduceat(sums, edges, axis=2) / np.multiply.outer(areas, areas)  # (N, 16, 16)
    wide = max(1, images.shape[1] // SIDE)
    borders = (images[:, :wide], images[:, -wide:], images[:, :, :wide], images[:, :, -wide:])
    parts = [part.reshape(len(images), -1) for part in (images, *borders)]
    looks = [(p.mean(1) / 255, p.std(1) / 255, (p == 0).mean(1), (p == 255).mean(1)) for p in parts]
    return np.column_stack(
        [small.reshape(len(images), -1) / 255, *(v for look in looks for v in look)]
    )


def size_features(sizes: np.ndarray) -> np.ndarray:
    """Logarithms of widths and heights (N, 2) in px, and of their ratios: (N, 3)."""
    logs = np.log(sizes.astype(float))
    return np.column_stack([logs, logs[:, 0] - logs[:, 1]])


def probe_sources(features: np.ndarray, sources: Sequence[str], patients: Sequence[str]) -> float:
    """The AUROC with which a logistic regression names the source from features (N, P).

    Cross-validated by patient; of more than two sources the mean of each against the others. NaN
    with fewer than LEAST patients of a source.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    y, names = pd.factorize(pd.Series(sources), sort=True)
    people = pd.Series(patients).groupby(y).nunique()
    if len(names) < 2 or people.min() < LEAST:
        return np.nan
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    probs = cross_val_predict(
        model, features, y, groups=list(patients), cv=folds, method="predict_proba"
    )
    if len(names) == 2:
        return float(roc_auc_score(y, probs[:, 1]))
    return float(roc_auc_score(y, probs, multi_class="ovr"))


def sources_text(films: float, sizes: float, frame: pd.DataFrame) -> str:
    """What the two AUROCs mean, and the finding whose frequency differs most between the sources of
    `frame`."""
    if np.isnan(films):
        return f"sources: too few patients of one (under {LEAST}) to try whether they can be told apart"
    able = "a model can cheat" if films >= CHEATS else "a model gains little by it"
    lines = [
        f"sources: told apart by 16 x 16 px and borders with AUROC {films:.2f}: {able}; by the size of "
        f"the files with AUROC {sizes:.2f} (1: always, 0.5: never)"
    ]
    shares = frame.groupby("source")[list(FINDINGS)].mean()
    spread = (shares.max() - shares.min()).where(shares.notna().sum() > 1)
    if films >= CHEATS and spread.notna().any():
        name = spread.idxmax()
        shares = ", ".join(
            f"{share:.0%} in {source}" for source, share in shares[name].dropna().items()
        )
        lines.append(
            f"{name} is in {shares}: compare scores by source, and see balance_sources in Config"
        )
    return "\n".join(lines)
