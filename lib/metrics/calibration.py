"""In: validation targets and probabilities (N, F). Out: one calibration map per finding.

Calibrated = sigmoid(slope * logit(p) + intercept): `none` leaves p as it is; `temperature` fits the
slope alone (Guo et al. 2017, one over their T); `platt` fits both (Platt 1999). The map rises
strictly, so no ranking and no AUROC changes.

Which of them: each is fitted on all but one fold of the validation patients and scored on that fold
by log loss, the proper score that the maps minimise; folds are by patient, because images of one
patient are alike and would hide overfitting. A richer map is taken only where it beats the simpler
by more than one standard error of their paired difference over patients (the one-standard-error
rule, Breiman et al. 1984): a rare finding has a few dozen positive images, and the lowest of three
noisy losses alone would often fit noise. A soft target, a share between 0 and 1, is taken as it is;
where positives are counted, it is one from 0.5 on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from lib.exceptions import ExportError
from lib.metrics.bootstrap import patient_codes
from lib.metrics.scores import HALF, MACRO, checked
from lib.metrics.thresholds import MIN_POSITIVES

_EPS = np.finfo(float).eps  # a log loss takes no probability nearer to 0 or 1, as scikit-learn's


def calibration_scores(
    targets: np.ndarray, probs: np.ndarray, findings: Sequence[str], bins: int = 15
) -> pd.DataFrame:
    """How well probs (N, F) are calibrated on targets (N, F) with NaN: one row per finding, then
    the row `macro`.

    brier: mean squared error (Brier 1950); brier_reference: that of predicting the share of
    positives for every image; ece: expected calibration error over `reliability`'s bins of equal
    counts (Nixon et al. 2019), which chance alone raises where images are few, so compare it on the
    same images only; log_loss, and positives. NaN where nothing is annotated. The macro row holds
    means over the other findings, and all positives. Raises ValueError as `evaluate`.
    """
    targets, probs = checked(targets, probs, findings, soft=True)
    rows = []
    for name, y, p in zip(findings, targets.T, probs.T, strict=True):
        annotated = ~np.isnan(y)
        y, p = y[annotated], p[annotated]
        row = {
            "finding": name,
            "brier": np.nan,
            "brier_reference": np.nan,
            "ece": np.nan,
            "log_loss": np.nan,
        }
        if len(y):
            predicted, observed, count = reliability(y, p, bins)
            spread = np.mean(y) * np.mean(1 - y) - np.mean(y * (1 - y))
            row |= {"brier": np.mean((p - y) ** 2), "brier_reference": spread}
            row |= {
                "ece": np.abs(predicted - observed) @ count / len(y),
                "log_loss": log_losses(y, p).mean(),
            }
        rows.append(row | {"positives": int((y >= HALF).sum())})
    table = pd.DataFrame(rows)
    means = table.drop(columns=["finding", "positives"]).mean().to_dict()
    return pd.DataFrame(
        [*rows, {"finding": MACRO, **means, "positives": int(table["positives"].sum())}]
    )


def calibration_table(
    targets: np.ndarray, probs: np.ndarray, calibrated: np.ndarray, findings: Sequence[str]
) -> pd.DataFrame:
    """`calibration_scores` of probs, and beside them those of calibrated as brier_, ece_ and
    log_loss_calibrated."""
    before, after = (
        calibration_scores(targets, values, findings) for values in (probs, calibrated)
    )
    after = after[["brier", "ece", "log_loss"]].add_suffix("_calibrated")
    return pd.concat([before, after], axis=1)


def reliability(
    y: np.ndarray, p: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share of positives and number of images of each bin, lowest first, of y
    (n,) and p (n,).

    Bins hold equal counts of images, as far as ties allow: equal probabilities stay in one bin, the
    one in which the middle of them stands; bins left empty are not returned. y is in [0, 1], or
    NaN, which is skipped. Raises ValueError where bins < 1.
    """
    from scipy.stats import rankdata  # half a second, and few commands calibrate

    if bins < 1:
        raise ValueError(f"bins must be at least 1; got {bins}")
    y, p = np.asarray(y, dtype=float), np.asarray(p, dtype=float)
    y, p = y[~np.isnan(y)], p[~np.isnan(y)]
    which = ((rankdata(p) - 0.5) * bins / max(1, len(p))).astype(int)  # (n,) by midrank
    count = np.bincount(which, minlength=bins)
    full = count > 0
    predicted, observed = (
        np.bincount(which, values, minlength=bins)[full] / count[full] for values in (p, y)
    )
    return predicted, observed, count[full]


def log_losses(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The log loss of each probability p (n,) against its target y (n,) in [0, 1]."""
    yes, no = (np.log(np.clip(q, _EPS, 1 - _EPS)) for q in (p, 1 - p))
    return -(y * yes + (1 - y) * no)


METHODS = ("none", "temperature", "platt")
# where 0 and 1 stand: beyond all that single precision can write
_LOWEST = 2.0**-150
_HIGHEST = 1 - 2.0**-53
# in single precision: at both ends and at one half, where a map can bring them too close
_NEIGHBOURS = np.array(
    [
        (0, 2**-149),
        (2**-149, 2**-148),
        (0.5, 0.5 + 2**-24),
        (1 - 2**-23, 1 - 2**-24),
        (1 - 2**-24, 1),
    ]
)
_UNFITTED = ("none", (1.0, 0.0), (np.nan,) * len(METHODS))


@dataclass(frozen=True)
class Calibration:
    """The map of each finding, in order, and why it was taken."""

    findings: tuple[str, ...]
    method: tuple[str, ...]  # one of METHODS
    slope: np.ndarray  # (F,) over 0
    intercept: np.ndarray  # (F,)
    log_loss: (
        np.ndarray
    )  # (F, 3) held-out log loss of METHODS; NaN where there was too little to try them
    positives: np.ndarray  # (F,) validation images with the finding

    def apply(self, probs: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of probs (..., F), as float64; ValueError on what is no
        probability.

        Two probabilities that differ in single precision still differ, in the same order.
        """
        probs = np.asarray(probs, dtype=float)
        if probs.ndim == 0 or probs.shape[-1] != len(self.findings):
            raise ValueError(
                f"probs must be (..., {len(self.findings)}), one column per finding; got {probs.shape}"
            )
        if not ((probs >= 0) & (probs <= 1)).all():  # NaN compares false
            raise ValueError(
                "probabilities must be finite numbers from 0 to 1; apply the sigmoid first"
            )
        return np.where(
            np.array(self.method) == "none", probs, _calibrated(probs, self.slope, self.intercept)
        )

    @classmethod
    def from_maps(
        cls,
        findings: Sequence[str],
        method: Sequence[str],
        slope: Sequence[float],
        intercept: Sequence[float],
    ) -> "Calibration":
        """The maps alone (F,), of which nothing is known but what they do."""
        losses, positives = (
            np.full((len(findings), len(METHODS)), np.nan),
            np.zeros(len(findings), int),
        )
        lines = np.array(slope, float), np.array(intercept, float)
        return cls(tuple(findings), tuple(method), *lines, losses, positives)

    def on(self, findings: Sequence[str]) -> "Calibration":
        """The maps of some findings, in their order; raises ExportError where one is missing."""
        if missing := [name for name in findings if name not in self.findings]:
            raise ExportError(f"the card's calibration lacks {', '.join(missing)}")
        index = [self.findings.index(name) for name in findings]
        fitted = (self.slope, self.intercept, self.log_loss, self.positives)
        method = tuple(self.method[j] for j in index)
        return Calibration(tuple(findings), method, *(values[index] for values in fitted))

    def as_card(self) -> dict[str, Any]:
        """What a saved model's card holds of it: only lists, text and numbers, None where a loss is
        not known."""
        losses = np.where(np.isnan(self.log_loss), None, self.log_loss).T.tolist()
        card = {
            "findings": list(self.findings),
            "method": list(self.method),
            "slope": self.slope.tolist(),
        }
        card |= {"intercept": self.intercept.tolist(), "val_positives": self.positives.tolist()}
        return card | {"held_out_log_loss": dict(zip(METHODS, losses, strict=True))}

    @classmethod
    def from_card(cls, card: dict[str, Any]) -> "Calibration":
        """The calibration in a card; raises ExportError that says what is wrong with it."""
        try:
            findings, method = tuple(card["findings"]), tuple(card["method"])
            losses = [card["held_out_log_loss"][name] for name in METHODS]
            parts = [card["slope"], card["intercept"], card["val_positives"], *losses]
        except KeyError as error:
            raise ExportError(
                f"the card's calibration lacks {error}; fit it again with fit_calibration"
            ) from error
        if any(len(part) != len(findings) for part in [method, *parts]):
            raise ExportError(
                f"the card's calibration needs {len(findings)} values everywhere, one per finding"
            )
        slope, intercept, positives, *losses = (np.array(part, dtype=float) for part in parts)
        for name, kind, a, b in zip(findings, method, slope, intercept, strict=True):
            if kind not in METHODS or not keeps_order(a, b):
                raise ExportError(
                    f"the card's calibration of {name} is '{kind}', slope {a}, intercept {b}: it must be one of "
                    f"{', '.join(METHODS)} and keep probabilities in order; fit it again with fit_calibration"
                )
        return cls(
            findings, method, slope, intercept, np.stack(losses, axis=1), positives.astype(int)
        )


def fit_calibration(
    targets: np.ndarray,
    probs: np.ndarray,
    patients: Sequence,
    findings: Sequence[str],
    folds: int = 5,
    seed: int = 0,
) -> Calibration:
    """The map of each finding from validation targets (N, F) with NaN, probs (N, F) and patients
    (N,).

    The maps minimise the log loss against Platt's smoothed targets, (P + 1) / (P + 2) and 1 / (N +
    2) for P positive and N negative images, so that they stay finite where probabilities separate
    the classes. `none` where a class has fewer than `MIN_POSITIVES` images or is seen in fewer than
    `folds` patients, or all probabilities are equal. Of maps too steep to keep the order
    (`keeps_order`) the steepest that keeps it is taken, and a falling map is not. The same patients
    and seed give the same folds. Raises ValueError as `evaluate`, where a patient is missing, and on
    fewer than two folds.
    """
    targets, probs = checked(targets, probs, findings, soft=True)
    codes, _ = patient_codes(patients, len(targets))
    if folds < 2:
        raise ValueError(f"folds must be at least 2, to hold one out; got {folds}")
    maps = []
    for y, p in zip(targets.T, probs.T, strict=True):
        annotated = ~np.isnan(y)
        maps.append(_fit_finding(y[annotated], p[annotated], codes[annotated], folds, seed))
    method, coefficients, losses = zip(*maps, strict=True)
    slope, intercept = np.array(coefficients).T
    return Calibration(
        tuple(findings), method, slope, intercept, np.array(losses), (targets >= HALF).sum(axis=0)
    )


def keeps_order(slope: float, intercept: float) -> bool:
    """Whether all probabilities that differ in single precision still differ, in the same order,
    after the map.

    A slope <= 0 does not; nor does a map so steep (about 2) or so high that probabilities next to 1
    round to one number.
    """
    if not np.isfinite([slope, intercept]).all():
        return False
    low, high = _calibrated(_NEIGHBOURS, slope, intercept).T
    return bool((high - low > 4 * np.spacing(high)).all())


def _calibrated(
    p: np.ndarray, slope: np.ndarray | float, intercept: np.ndarray | float
) -> np.ndarray:
    return expit(slope * _logit(p) + intercept)


def _logit(p: np.ndarray) -> np.ndarray:
    return logit(np.clip(p, _LOWEST, _HIGHEST))


def _fit_finding(y: np.ndarray, p: np.ndarray, codes: np.ndarray, folds: int, seed: int) -> tuple:
    """Method, (slope, intercept) and the three held-out losses of one finding's annotated images
    (n,)."""
    classes = [codes[(y >= HALF) == value] for value in (False, True)]
    if (
        min(map(len, classes)) < MIN_POSITIVES
        or min(len(np.unique(kind)) for kind in classes) < folds
        or not np.ptp(p)
    ):
        return _UNFITTED
    z, fold = _logit(p), _deal(y, codes, folds, seed)
    best, fitted, losses = "none", {"none": (1.0, 0.0)}, {"none": log_losses(y, p)}
    for method in METHODS[1:]:
        fitted[method], losses[method] = _fit_in_order(z, y, method), np.empty(len(y))
        for k in range(folds):
            slope, intercept = _fit_in_order(z[fold != k], y[fold != k], method)
            losses[method][fold == k] = log_losses(
                y[fold == k], expit(slope * z[fold == k] + intercept)
            )
        if keeps_order(*fitted[method]) and _clearly_positive(losses[best] - losses[method], codes):
            best = method
    return best, fitted[best], tuple(loss.mean() for loss in losses.values())


def _deal(y: np.ndarray, codes: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each image (n,): patients are shuffled and dealt, those with a positive image
    first, so evenly."""
    patients, image = np.unique(codes, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(patients))
    positive = np.bincount(image, y >= HALF)[shuffled] > 0
    order = np.concatenate([shuffled[positive], shuffled[~positive]])
    fold = np.empty(len(patients), dtype=int)
    fold[order] = np.arange(len(patients)) % folds
    return fold[image]


def _clearly_positive(gain: np.ndarray, codes: np.ndarray) -> bool:
    """Whether the mean of gain (n,) is more than its standard error over patients above 0 (a ratio
    of cluster sums)."""
    _, image = np.unique(codes, return_inverse=True)
    rest = np.bincount(image, gain - gain.mean())
    error = np.sqrt(len(rest) / (len(rest) - 1) * (rest**2).sum()) / len(gain)
    return bool(gain.mean() > error)


def _fit_in_order(z: np.ndarray, y: np.ndarray, method: str) -> tuple[float, float]:
    """`_fit`; where that map is too steep to keep the order, the steepest that does, with its best
    intercept.

    Losses that press probabilities together, such as focal ones, need steep maps. The slope is
    found by halving between 1 and that of `_fit`.
    """
    slope, intercept = _fit(z, y, method)
    if slope <= 1 or keeps_order(slope, intercept):
        return slope, intercept
    low, high = 1.0, slope
    best = low, _fit(z, y, method, low)[1]
    for _ in range(12):
        middle = (low + high) / 2
        found = middle, _fit(z, y, method, middle)[1]
        if keeps_order(*found):
            low, best = middle, found
        else:
            high = middle
    return best


def _fit(
    z: np.ndarray, y: np.ndarray, method: str, slope: float | None = None
) -> tuple[float, float]:
    """Slope and intercept (0 for a temperature) that minimise the smoothed log loss, which is
    convex; the intercept alone where the slope is given."""
    from scipy.optimize import minimize

    features = np.stack([z, np.ones(len(z))], axis=1)[:, : METHODS.index(method)]  # (n, 1 or 2)
    offset: np.ndarray | float = 0.0
    if slope is not None:
        if method == "temperature":
            return slope, 0.0
        features, offset = features[:, 1:], slope * z
    positives, negatives = y.sum(), (1 - y).sum()
    wanted = y * (positives + 1) / (positives + 2) + (1 - y) / (negatives + 2)

    def loss(weights: np.ndarray) -> float:
        linear = features @ weights + offset
        return float(np.mean(np.logaddexp(0, linear) - wanted * linear))

    def gradient(weights: np.ndarray) -> np.ndarray:
        return features.T @ (expit(features @ weights + offset) - wanted) / len(z)

    def curvature(weights: np.ndarray) -> np.ndarray:
        q = expit(features @ weights + offset)
        return (features.T * (q * (1 - q))) @ features / len(z)

    start = np.array([1.0, 0.0])[: features.shape[1]] if slope is None else np.zeros(1)
    found = minimize(
        loss, start, jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-9}
    )
    if not np.abs(gradient(found.x)).max() < 1e-6:
        raise ValueError(
            f"the fit of the {method} map did not converge; are almost all probabilities equal?"
        )
    if slope is not None:
        return slope, float(found.x[0])
    fitted, intercept = np.append(found.x, 0)[:2]
    return float(fitted), float(intercept)
