"""In: the answers of one or several trainings for the same films. Out: their rates at the frozen
thresholds, prevalence, and how well probabilities are calibrated, with 95 % intervals over patients and
trainings.

Intervals of shares are Wilson's (1927) with the number of films that the variance is worth (Korn and
Graubard 1998 for clustered samples): films of one patient are alike, and trainings differ. They do not
shrink to nothing where every answer is right. Those of the Brier score and of the calibration error are
Student's, the latter around the error less the bootstrap's bias: chance alone raises it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import stdtrit
from scipy.stats import rankdata

from lib.comparison.significance import satterthwaite
from lib.external.models import Answers
from lib.metrics.bootstrap import patient_codes, resample_counts, spread
from lib.metrics.scores import MACRO, MIN_PATIENTS, cuts, mean_defined, ratio

RESAMPLES = 1000
BINS = 15
SHARES = ("sensitivity", "specificity", "accuracy", "accuracy_all_negative", "prevalence")
ERRORS = ("brier", "brier_calibrated", "ece", "ece_calibrated")
CORRECTED = ("ece", "ece_calibrated")
"""Their intervals are around the value less the bootstrap's bias."""


def rate_table(runs: Sequence[Answers], counted: np.ndarray) -> pd.DataFrame:
    """metric, finding, value, low, high of the mean over `runs`, which answered the same films: one row
    per metric and finding, macro last.

    counted: (F,) the findings of the macro mean. A share has no interval with fewer than MIN_PATIENTS
    patients of its class. ece: expected calibration error over 15 bins of equal counts
    (`metrics.calibration`), whose edges stay those of all films in each resample.
    """
    first = runs[0].run
    made = [_resampled(one) for one in runs]
    people = _people(first.targets, first.patients)
    rows = []
    for metric in (*SHARES, *ERRORS):
        values = np.array([one[metric] for one in made])  # (S, 1 + R, F)
        values = np.concatenate([values, mean_defined(values[..., counted])[..., None]], axis=-1)
        value = values[:, 0].mean(axis=0)
        error, freedom = _error(values)
        low, high = _ends(metric, value, values, error, freedom, people)
        names = [*first.findings, MACRO]
        rows.append(
            pd.DataFrame(
                {"metric": metric, "finding": names, "value": value, "low": low, "high": high}
            )
        )
    return pd.concat(rows, ignore_index=True)


def _ends(
    metric: str,
    value: np.ndarray,
    values: np.ndarray,
    error: np.ndarray,
    freedom: np.ndarray,
    people: dict[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """low and high (F + 1,) of one metric."""
    reach = stdtrit(freedom, 0.975)
    middle = value.copy()
    if metric in CORRECTED:
        middle -= mean_defined(values[:, 1:], axis=1).mean(axis=0) - value
    low, high = middle - reach * error, middle + reach * error
    if metric in SHARES:
        count = people.get(metric, people["all"])
        low[:-1], high[:-1] = wilson(value[:-1], error[:-1], reach[:-1], count)
        few = np.append(count < MIN_PATIENTS, False)
        low, high = np.where(few, np.nan, low), np.where(few, np.nan, high)
    return np.clip(low, 0, 1), np.clip(high, 0, 1)


def wilson(
    share: np.ndarray, error: np.ndarray, z: np.ndarray, people: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval of shares (F,) whose standard errors are given; where one is 0, of as many
    films as there are patients."""
    with np.errstate(invalid="ignore", divide="ignore"):
        worth = np.where(error > 0, share * (1 - share) / error**2, people)
        middle = (share + z**2 / (2 * worth)) / (1 + z**2 / worth)
        reach = (
            z * np.sqrt(share * (1 - share) / worth + z**2 / (4 * worth**2)) / (1 + z**2 / worth)
        )
    return middle - reach, middle + reach


def _error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard error and degrees of freedom (F + 1,) of the mean over trainings; values: (S, 1 + R,
    F + 1), the first of each as it is, then its resamples. The scheme is that of `comparison.arms`."""
    count, points, resampled = len(values), values[:, 0], values[:, 1:]
    mean = mean_defined(resampled, axis=0)
    patients = spread(mean) ** 2
    if count == 1:
        return np.sqrt(patients), np.full(values.shape[2], np.inf)
    seeds = ((points - points.mean(axis=0)) ** 2).sum(axis=0) / (count - 1) / count
    both = sum(spread(one - mean) ** 2 for one in resampled) / (count - 1) / count
    patients = np.fmax(patients - np.fmin(both, seeds), 0)
    freedom = np.array(
        [satterthwaite(a, b, count - 1) for a, b in zip(patients, seeds, strict=True)]
    )
    freedom[seeds < both] = np.inf
    return np.sqrt(patients + seeds), freedom


def _people(targets: np.ndarray, patients: np.ndarray) -> dict[str, np.ndarray]:
    """Patients (F,) with a positive film, with a negative one, and with any that is annotated."""
    masks = {"sensitivity": targets == 1, "specificity": targets == 0, "all": ~np.isnan(targets)}
    return {
        name: np.array([len(np.unique(patients[column])) for column in mask.T])
        for name, mask in masks.items()
    }


def _resampled(one: Answers) -> dict[str, np.ndarray]:
    """metric -> (1 + RESAMPLES, F): as it is, then in each resample of patients."""
    run = one.run
    codes, people = patient_codes(run.patients, len(run.images))
    counts = np.ones((1, people))
    if people > 1:
        counts = np.concatenate([counts, resample_counts(people, RESAMPLES, run.fold)])

    def sums(values: np.ndarray) -> np.ndarray:
        """Sums over films (1 + R, K) of values (N, K)."""
        columns = [np.bincount(codes, column, people) for column in values.astype(float).T]
        return counts @ np.array(columns).T

    annotated, positive, negative = (
        ~np.isnan(run.targets),
        run.targets == 1,
        run.targets == 0,
    )
    called = run.probs >= cuts(run.thresholds, len(run.findings))[0]
    whole, yes, no = sums(annotated), sums(positive), sums(negative)
    found, spared = sums(positive & called), sums(negative & ~called)
    made = {
        "sensitivity": ratio(found, yes, yes > 0),
        "specificity": ratio(spared, no, no > 0),
        "accuracy": ratio(found + spared, whole, whole > 0),
        "accuracy_all_negative": ratio(no, whole, whole > 0),
        "prevalence": ratio(yes, whole, whole > 0),
    }
    for suffix, probs in (("", one.raw), ("_calibrated", run.probs)):
        off = np.where(annotated, probs - np.nan_to_num(run.targets), 0.0)
        lost = sums(off**2)
        made[f"brier{suffix}"] = ratio(lost, whole, whole > 0)
        gaps = [
            np.abs(sums(_in_bins(p, mask) * gap[:, None])).sum(axis=1)
            for p, mask, gap in zip(probs.T, annotated.T, off.T, strict=True)
        ]
        made[f"ece{suffix}"] = ratio(np.array(gaps).T, whole, whole > 0)
    return made


def _in_bins(p: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """Which bin of equal counts each annotated film is in: (N, BINS) of 0 and 1, by midrank as
    `calibration.reliability`; all 0 for the others."""
    inside = np.zeros((len(p), BINS))
    rows = np.flatnonzero(annotated)
    if len(rows) and not np.isnan(p[rows]).any():
        which = ((rankdata(p[rows]) - 0.5) * BINS / len(rows)).astype(int)
        inside[rows, which] = 1
    return inside
