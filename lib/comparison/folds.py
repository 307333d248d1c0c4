"""In: the runs of an arm, one per seed and fold. Out: one `FoldedRun` per seed, scored as a single
run is; what overlapping training sets add to its variance.

Every patient is tested once, by the model of the fold that did not train on them. Scores are
computed within a fold and then averaged: answers of different trainings are never ranked together
(LeDell, Petersen and van der Laan 2015, "Computationally efficient confidence intervals for
cross-validated area under the ROC curve estimates"). Patients are resampled within folds, each fold
with random numbers of its own, the same for all arms and seeds.

The models of two folds share most of their training patients, and each was trained on the test
patients of the other: their scores are correlated, and no estimate of that from one study is
unbiased (Bengio and Grandvalet 2004). `overlap_factor` takes the correlation that Nadeau and Bengio
(2003, "Inference for the generalization error") propose, n_test / (n_test + n_train) = 1 / K. They
apply it to the spread of the folds' scores; here it multiplies the variance over patients, which
a bootstrap knows far better than K scores show it. For models that are still far from what more
data would make of them this is about right; where more data would change nothing, it is up to a
third too wide (tests/test_folds_coverage.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lib.exceptions import ComparisonError
from lib.metrics.bootstrap import mean_defined, spread
from lib.metrics.scores import enough_patients, some_or_all

if TYPE_CHECKING:
    from lib.comparison.arms import RunPredictions


def overlap_factor(folds: int) -> float:
    """What the variance over patients is multiplied with: 1 + (K - 1) / K, and 1 without folds.

    The variance of the mean of K scores with variance v and correlation 1 / K is v / K times this.
    """
    return 2 - 1 / folds


@dataclass(frozen=True)
class FoldedRun:
    """The runs of one arm and one seed over all folds, in the order of the folds, as one run.

    A score is the mean over folds. Images, patients and targets are those of all folds, one after
    the other. A finding counts in the macro mean where every fold has enough positive and negative
    patients (`scores.enough_patients`): the same findings for all arms.
    """

    parts: tuple["RunPredictions", ...]

    @property
    def run(self) -> str:
        """The name of the first fold's run and how many there are."""
        return f"{self.parts[0].run} and {len(self.parts) - 1} other folds"

    @property
    def seed(self) -> int:
        return self.parts[0].seed

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.parts[0].metrics

    @property
    def findings(self) -> tuple[str, ...]:
        return self.parts[0].findings

    @property
    def fingerprint(self) -> str:
        """Of the test images and labels of all folds."""
        return " ".join(part.fingerprint for part in self.parts)

    @cached_property
    def images(self) -> np.ndarray:
        """(N,)"""
        return np.concatenate([part.images for part in self.parts])

    @cached_property
    def patients(self) -> np.ndarray:
        """(N,)"""
        return np.concatenate([part.patients for part in self.parts])

    @cached_property
    def targets(self) -> np.ndarray:
        """(N, F)"""
        return np.concatenate([part.targets for part in self.parts])

    def on(self, findings: Sequence[str]) -> "FoldedRun":
        """The same for some findings, and the images that are annotated for at least one."""
        parts = tuple(part.on(findings) for part in self.parts)
        same = all(new is old for new, old in zip(parts, self.parts, strict=True))
        return self if same else FoldedRun(parts)  # with what it has computed

    def rows(self, kept: np.ndarray) -> "FoldedRun":
        """The same for the images where kept (N,) is true."""
        ends = np.cumsum([len(part.images) for part in self.parts])[:-1]
        masks = np.split(kept, ends)
        return FoldedRun(tuple(part.rows(m) for part, m in zip(self.parts, masks, strict=True)))

    @cached_property
    def counted(self) -> np.ndarray:
        """Which findings count in the macro mean (F,): those with enough patients in every fold; all
        where none has."""
        enough = [enough_patients(part.targets, part.patients) for part in self.parts]
        return some_or_all(np.all(enough, axis=0))

    @cached_property
    def by_fold(self) -> dict[str, np.ndarray]:
        """metric -> (K, F + 1): the scores of each fold; macro over the findings that count."""
        return {
            metric: self._with_macro(np.array([part.points[metric][:-1] for part in self.parts]))
            for metric in self.metrics
        }

    @cached_property
    def points(self) -> dict[str, np.ndarray]:
        """metric -> (F + 1,): the means over folds."""
        return {metric: mean_defined(scores, axis=0) for metric, scores in self.by_fold.items()}

    @cached_property
    def resampled(self) -> dict[str, np.ndarray]:
        """metric -> (RESAMPLES, F + 1): the means over folds in each resample."""
        return {
            metric: self._with_macro(
                mean_defined(
                    np.array([part.resampled[metric][:, :-1] for part in self.parts]), axis=0
                )
            )
            for metric in self.metrics
        }

    def fold_variances(self, metric: str, less: np.ndarray) -> np.ndarray:
        """Variance over patients of each fold's scores less those of `less` (K, RESAMPLES, F + 1):
        (K, F + 1)."""
        apart = self.resampled_by_fold(metric) - less
        return np.array([spread(fold) ** 2 for fold in apart])

    def resampled_by_fold(self, metric: str) -> np.ndarray:
        """(K, RESAMPLES, F + 1)"""
        return np.array([self._with_macro(part.resampled[metric][:, :-1]) for part in self.parts])

    def _with_macro(self, values: np.ndarray) -> np.ndarray:
        """values (..., F) with the mean over the findings that count: (..., F + 1)."""
        return np.concatenate([values, mean_defined(values[..., self.counted])[..., None]], axis=-1)


def fold_seeds(runs: Sequence["RunPredictions"]) -> tuple[list[FoldedRun], list[int]]:
    """The seeds of an arm's runs of which every fold is there, as one run each, and the seeds that
    are left out because a fold is missing.

    Raises ComparisonError where no seed is whole, runs are of different divisions, or a patient is
    tested in two folds.
    """
    count = runs[0].folds
    if any(run.folds != count for run in runs):
        raise ComparisonError(
            f"{', '.join(run.run for run in runs)} are of different numbers of folds"
        )
    seeds: dict[int, dict[int, RunPredictions]] = {}
    for run in runs:
        seeds.setdefault(run.seed, {})[run.fold] = run
    whole = [seed for seed, folds in seeds.items() if set(folds) == set(range(count))]
    if not whole:
        found = "; ".join(f"seed {seed}: {len(folds)}" for seed, folds in seeds.items())
        raise ComparisonError(f"no seed has all {count} folds complete ({found})")
    made = [FoldedRun(tuple(seeds[seed][k] for k in range(count))) for seed in whole]
    for one in made:
        tested = sum(len(np.unique(part.patients)) for part in one.parts)
        if tested > len(np.unique(one.patients)):
            raise ComparisonError(f"{one.run} test a patient in more than one fold")
    return made, [seed for seed in seeds if seed not in whole]


def fold_noise(arms: Sequence[FoldedRun], metric: str) -> np.ndarray:
    """The variance of a run's mean over folds (F + 1,) that comes from its trainings, from arms with
    one run each.

    What arms differ by from fold to fold, beyond what resampling patients explains; of a single
    arm, its own spread over folds. With (A - 1)(K - 1) degrees of freedom for A arms, K - 1 for
    one. Never below 0. A fold that lacks a class of a finding does not count for it.
    """
    scores = np.array([arm.by_fold[metric] for arm in arms])  # (A, K, F + 1)
    arms_less, common = 1, np.zeros(1)
    if len(arms) > 1:
        scores = scores - scores.mean(axis=0)  # a class that a fold lacks, all arms lack
        common = np.mean([arm.resampled_by_fold(metric) for arm in arms], axis=0)
        arms_less = len(arms) - 1
    folds = (~np.isnan(scores[0])).sum(axis=0)  # (F + 1,) that have a score
    apart = scores - mean_defined(scores, axis=1)[:, None]
    shown = np.nansum(apart**2, axis=(0, 1)) / (arms_less * np.maximum(folds - 1, 1))
    explained = np.array([arm.fold_variances(metric, common) for arm in arms])  # (A, K, F + 1)
    patients = mean_defined(explained.sum(axis=0), axis=0) / arms_less
    return np.fmax(shown - patients, 0.0) / np.maximum(folds, 1)
