"""Simulated studies with folds, every model of which is fitted again: few patients, many weak
features, linear models.

A patient has one image or more and, for each finding, features that are normal around a mean which
the finding shifts; half of their variance is the patient's own, half the image's. Models are ridge
regressions on some of the features. A seed decides which features and which patients validate
(and are not fitted on). Since features are normal, the AUROC of a linear model on new patients is
known exactly: Phi(shift sum(w) / sqrt(2 sum(w^2))).
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from lib.comparison.arms import RunPredictions


@dataclass(frozen=True)
class World:
    """patients in `folds` folds; prevalence of each finding; shift: of each feature, in standard
    deviations; ridge: the penalty. `pick` says how a model takes its features: at random, or the
    best on its training images, which depends on these much more."""

    patients: int = 400
    folds: int = 5
    prevalence: tuple[float, ...] = (0.3, 0.15, 0.08)
    features: int = 60
    shift: float = 0.2
    ridge: float = 20.0
    pick: str = "random"


ARMS = ("first", "same", "other", "better")
"""same: as first, drawn again; other: other features of the same worth; better: more features."""


def simulate(rng: np.random.Generator, world: World, seeds: int) -> tuple[dict, np.ndarray]:
    """The runs of one study by arm, and the true macro AUROC of every model (arms, folds, seeds)."""
    w, third, findings = world, world.features // 3, len(world.prevalence)
    of = np.repeat(np.arange(w.patients), 1 + rng.poisson(0.25, w.patients))  # (N,)
    positive = rng.random((w.patients, findings)) < w.prevalence
    fold = _deal(rng, positive, w.folds)[of]
    fitted = rng.random((w.folds, seeds, w.patients)) < 0.85
    fitted = fitted[:, :, of] & (fold != np.arange(w.folds)[:, None])[:, None]  # (K, S, N)
    used = fitted.reshape(-1, len(of)).astype(float)
    sizes = dict(zip(ARMS, [3 * third // 2] * 3 + [3 * third - 3], strict=True))
    begins = {"other": third}
    models, truth = [], 0.0
    features = rng.normal(size=(findings, w.patients, w.features))[:, of]
    features = np.sqrt(0.5) * (features + rng.normal(size=features.shape))
    features += w.shift * positive[of].T[:, :, None]  # (F, N, D)
    for x, y in zip(features, positive[of].T, strict=True):
        pools = {
            arm: np.arange(begins.get(arm, 0), begins.get(arm, 0) + 2 * third) for arm in ARMS
        } | {"better": np.arange(3 * third)}
        weights = _fit(rng, x, y, used, pools, sizes, w)  # (A, K S, D)
        models.append(weights.reshape(len(ARMS), w.folds, seeds, -1))
        length = np.sqrt(2 * (models[-1] ** 2).sum(axis=-1))
        truth = truth + norm.cdf(w.shift * models[-1].sum(axis=-1) / length) / findings
    return _answers(features, positive[of], of, fold, np.array(models)), truth


def _deal(rng: np.random.Generator, positive: np.ndarray, folds: int) -> np.ndarray:
    """The fold of each patient (P,): dealt out by their findings, the rarest first."""
    order = np.lexsort([rng.random(len(positive)), *positive.T])
    fold = np.empty(len(positive), dtype=int)
    fold[order] = np.arange(len(positive)) % folds
    return fold


def _fit(rng, x, y, fitted, pools, sizes, world) -> np.ndarray:
    """Weights (A, J, D) of one finding's models for J sets of training images (J, N), by arm."""
    count = fitted.sum(axis=1)[:, None]  # (J, 1)
    middle, share = fitted @ x / count, fitted @ y / count[:, 0]
    small = x.astype(np.float32)
    products = fitted.astype(np.float32) @ (small[:, :, None] * small[:, None]).reshape(len(x), -1)
    products = products.reshape(len(fitted), *[x.shape[1]] * 2)
    gram = products - count[:, :, None] * middle[:, :, None] * middle[:, None]
    target = fitted @ (x * y[:, None]) - count * middle * share[:, None]  # (J, D)
    weights = np.zeros((len(pools), *target.shape))
    row = np.arange(len(fitted))[:, None]
    for one, (arm, pool) in zip(weights, pools.items(), strict=True):
        worth = rng.random((len(fitted), len(pool)))
        taken = sizes[arm]
        if world.pick == "best":
            worth, taken = target[:, pool], max(2, taken // 5)
        index = pool[np.argsort(-worth, axis=1)[:, :taken]]  # (J, M)
        matrix = gram[row[:, :, None], index[:, :, None], index[:, None]]
        matrix = matrix + world.ridge * np.eye(taken)
        one[row, index] = np.linalg.solve(matrix, target[row, index][:, :, None])[..., 0]
    return weights


def _answers(features, targets, of, fold, models) -> dict[str, list[RunPredictions]]:
    """The runs of each arm: models (F, A, K, S, D) answer the images of their fold."""
    names = tuple(f"f{j}" for j in range(len(models)))
    arms: dict[str, list[RunPredictions]] = {arm: [] for arm in ARMS}
    for k in range(models.shape[2]):
        tested = fold == k
        z = np.einsum("fnd,fasd->asnf", features[:, tested], models[:, :, k])
        y, positive = targets[tested].astype(float), targets[tested]
        areas = [_areas(z[..., j], positive[:, j]) for j in range(len(names))]  # F of (A, S)
        for a, arm in enumerate(ARMS):
            for s in range(models.shape[3]):
                scored = {"auroc": np.array([area[a, s] for area in areas])}
                scored |= dict.fromkeys(("average_precision", "f1"), np.zeros(len(names)))
                answer = 1 / (1 + np.exp(-z[a, s] / z[a, s].std(axis=0)))
                where = {"images": np.flatnonzero(tested).astype(str), "patients": of[tested]}
                about = {"run": f"{arm}-s{s}-f{k}", "seed": s, "folds": models.shape[2], "fold": k}
                run = RunPredictions(
                    names,
                    targets=y,
                    probs=answer,
                    thresholds=np.full(len(names), 0.5),
                    scored=scored,
                    **where,
                    **about,
                )
                arms[arm].append(run)
    return arms


def _areas(z: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """AUROC (A, S) of answers z (A, S, N) without ties."""
    higher = z[..., positive][..., :, None] > z[..., ~positive][..., None, :]
    return higher.mean(axis=(-1, -2))
