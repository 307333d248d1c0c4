"""In: the folders of complete runs. Out: arms and their differences, with intervals over patients
and over seeds.

The scheme. The score of an arm is the mean of its runs, one per seed; two arms are compared on the
same test images. Patients: the cluster bootstrap of `lib.metrics.bootstrap`, with the same
resamples for every run, gives the variance over test patients. Seeds: the spread of the runs of an
arm gives the variance over trainings. Both are added, like cases and readers in reading studies
(Obuchowski and Rockette 1995; Hillis 2007), and the interval is Student's with Satterthwaite's
degrees of freedom. The seed-by-patient interaction appears in both components and is subtracted
once. If the seed variance is smaller than the interaction, only the patient variance is used, so
that seeds that agree by chance cannot narrow the interval. With two or three seeds the variance is
poorly estimated, so it is pooled over the arms of the study (`training_noise`), and the larger of
the pooled and the arms' own is used. With one training on each side and no study nothing is known
of the second part: there is no p-value, and no verdict.

With folds, a seed's runs over all folds are one run (`lib.comparison.folds`): its score is the mean
over folds, its resamples are drawn within folds, and the variance over patients is multiplied by
what overlapping training sets add. The spread over seeds is then that of these means. Arms of one
seed each have K trainings: what they differ by from fold to fold beyond patients stands in for the
spread over seeds.

An arm in 8 bits and the arm that it was made from are compared seed by seed (`lib.comparison.pairs`).
"""

import contextlib
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from lib.comparison.folds import FoldedRun, fold_noise, overlap_factor
from lib.comparison.pairs import RunDifference, paired
from lib.comparison.significance import satterthwaite
from lib.exceptions import ComparisonError
from lib.files import INT8, atomic_write, read_json, read_table
from lib.metrics.bootstrap import (
    INTERVAL_METRICS,
    LEVEL,
    bias,
    bootstrap_scores,
    finding_interval,
    mean_defined,
    point_scores,
    spread,
)
from lib.metrics.predictions import Predictions, read_predictions
from lib.metrics.scores import HALF, MACRO, MIN_PATIENTS, counted_findings, positive_patients
from lib.runs.run import is_complete
from lib.runs.study import read_record
from lib.system import available_cores

RESAMPLES = 1000


@dataclass(frozen=True)
class RunPredictions(Predictions):
    """One run's predictions for its test images, sorted by image, with its thresholds (F,).

    fingerprint: of the test images and labels, from the record. scored: metric -> (F,) where
    metrics.csv has them. folder: where resamples are kept; None keeps nothing. folds, fold: how
    many folds the patients are divided into (0: not at all), and the one that is tested here.
    ranks_only: probs are ranks of scores and not probabilities, so that F1 has no value. made_from:
    the run whose network it has in 8 bits; empty for a network that was trained.
    """

    run: str
    seed: int
    thresholds: np.ndarray
    fingerprint: str = ""
    scored: dict[str, np.ndarray] | None = None
    folder: Path | None = None
    folds: int = 0
    fold: int = 0
    ranks_only: bool = False
    made_from: str = ""

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it is scored by: the keys of `points` and `resampled`."""
        return INTERVAL_METRICS

    @property
    def parts(self) -> tuple["RunPredictions", ...]:
        """The runs that it consists of: itself. Those of a `FoldedRun` are its folds."""
        return (self,)

    def on(self, findings: Sequence[str]) -> "RunPredictions":
        """The same for some findings, and the images that are annotated for at least one of
        them."""
        columns = [self.findings.index(name) for name in findings]
        kept = ~np.isnan(self.targets[:, columns]).all(axis=1)
        if tuple(findings) == self.findings and kept.all():
            return self  # with what it has computed
        parts = {"targets": self.targets[:, columns], "probs": self.probs[:, columns]}
        parts["thresholds"] = self.thresholds[columns]
        return replace(self, findings=tuple(findings), scored=None, **parts).rows(kept)

    def rows(self, kept: np.ndarray) -> "RunPredictions":
        """The same for the images where kept (N,) is true."""
        names = ("images", "patients", "targets", "probs")
        return replace(self, scored=None, **{name: getattr(self, name)[kept] for name in names})

    @cached_property
    def counted(self) -> np.ndarray:
        """Which findings count in the macro mean (F,)."""
        return counted_findings(self.targets, self.patients)

    @cached_property
    def points(self) -> dict[str, np.ndarray]:
        """metric -> (F + 1,): each finding, then macro."""
        scores = self._defined(
            self.scored or point_scores(self.targets, self.probs, self.thresholds)
        )
        return {
            metric: np.append(values, mean_defined(values[self.counted]))
            for metric, values in scores.items()
        }

    @cached_property
    def resampled(self) -> dict[str, np.ndarray]:
        """metric -> (RESAMPLES, F + 1), NaN where a class is missing; macro is the mean of what is
        there."""
        scores = self._defined(self._kept_resamples())
        return {
            metric: np.column_stack([values, mean_defined(values[:, self.counted])])
            for metric, values in scores.items()
        }

    def _defined(self, scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """scores, with NaN for F1 of answers that have no threshold."""
        return {**scores, "f1": scores["f1"] * np.nan} if self.ranks_only else scores

    def _kept_resamples(self) -> dict[str, np.ndarray]:
        """metric -> (RESAMPLES, F), from the run's folder where they were computed of the same
        predictions before."""
        path = None if self.folder is None else self.folder / "resamples" / f"{self._digest()}.npz"
        if path is not None and path.exists():
            with (
                contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile),
                np.load(path) as kept,
            ):
                return {metric: kept[metric] for metric in INTERVAL_METRICS}
        scores = bootstrap_scores(
            self.targets, self.probs, self.patients, self.thresholds, n=RESAMPLES, seed=self.fold
        )
        if path is not None:
            with (
                contextlib.suppress(OSError),
                atomic_write(path) as partial,
            ):  # a folder that is read-only keeps nothing
                np.savez(partial, **scores)
        return scores

    def _digest(self) -> str:
        """Changes with anything that resamples depend on."""
        drawn = f"{RESAMPLES} {self.findings}" + (f" fold {self.fold}" if self.fold else "")
        digest = blake2b(drawn.encode(), digest_size=12)
        digest.update("\0".join(map(str, self.patients)).encode())
        for array in (self.targets, self.probs, self.thresholds):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def read_run_predictions(folder: Path) -> RunPredictions:
    """The test predictions of a complete run; raises ComparisonError when there are none."""
    if not is_complete(folder):
        raise ComparisonError(
            f"{folder} holds no complete run (no record.json): run it, or name another folder"
        )
    test = read_predictions(folder / "predictions.parquet")
    metrics = read_table(folder / "metrics.csv").set_index("finding").loc[list(test.findings)]
    thresholds = metrics["threshold"].where(metrics["threshold_from"] != "default").to_numpy(float)
    whole = set(INTERVAL_METRICS) <= set(metrics.columns)
    scored = (
        {metric: metrics[metric].to_numpy(float) for metric in INTERVAL_METRICS} if whole else None
    )
    config = read_json(folder / "config.json")
    about = {"run": folder.name, "seed": config["seed"], "folder": folder}
    about |= {name: config.get(name, 0) for name in ("folds", "fold")}
    about["fingerprint"] = read_record(folder).data.test_fingerprint
    if (folder / INT8).exists():
        about["made_from"] = Path(config["init_from"]).name
    return RunPredictions(**vars(test), thresholds=thresholds, scored=scored, **about)


Scored = RunPredictions | FoldedRun
"""One run on one test set, or the runs of one seed over all folds."""


def resample_all(runs: Sequence[Scored]) -> None:
    """Resamples runs side by side, on all cores: NumPy does most of it without Python's lock."""
    with ThreadPoolExecutor(available_cores()) as threads:
        list(threads.map(lambda run: run.resampled, [part for run in runs for part in run.parts]))


def common_findings(runs: Sequence[Scored]) -> tuple[str, ...]:
    """The findings that all runs answer for; raises ComparisonError where there is none, or test
    images differ."""
    first = runs[0]
    shared = tuple(name for name in first.findings if all(name in run.findings for run in runs))
    if not shared:
        raise ComparisonError(
            f"{' and '.join(dict.fromkeys(run.run for run in runs))} share no finding"
        )
    ours = first.on(shared)
    for run in runs[1:]:
        theirs = run.on(shared)
        both = np.intersect1d(ours.images, theirs.images)
        if len(both) < max(len(ours.images), len(theirs.images)):
            raise ComparisonError(
                f"{ours.run} and {theirs.run} were tested on different images ({len(ours.images)} and "
                f"{len(theirs.images)}, {len(both)} of them shared; test fingerprints {ours.fingerprint} and "
                f"{theirs.fingerprint}): scores on different test sets do not compare"
            )
        if not np.array_equal(ours.images, theirs.images):
            raise ComparisonError(
                f"{ours.run} and {theirs.run} divide the test patients into different folds: scores "
                "of different divisions do not compare"
            )
        if not np.array_equal(ours.targets, theirs.targets, equal_nan=True):
            changed = int((~_same(ours.targets, theirs.targets)).any(axis=1).sum())
            raise ComparisonError(
                f"{ours.run} and {theirs.run}: the labels of {changed} test images differ"
            )
    return shared


@dataclass(frozen=True)
class Noise:
    """Variance of a run's score over trainings: metric -> (F + 1,), each finding and macro; df:
    degrees of freedom.

    `interaction` is the part of it that resampling patients shows too: runs that meet the same
    patients differently.
    """

    findings: tuple[str, ...]
    variance: dict[str, np.ndarray]
    interaction: dict[str, np.ndarray]
    df: int


def training_noise(arms: Sequence[Sequence[Scored | RunDifference]]) -> Noise:
    """The spread over seeds, pooled over arms (each its runs) that answer for the same findings;
    with folds and one seed an arm, what they show from fold to fold (`folds.fold_noise`)."""
    findings, metrics = arms[0][0].findings, arms[0][0].metrics
    groups = [arm for arm in arms if arm[0].findings == findings]
    df = sum(len(group) - 1 for group in groups)
    folded = [run for group in groups for run in group if isinstance(run, FoldedRun)]
    if folded and df == 0:
        between = {metric: fold_noise(folded, metric) for metric in metrics}
        none = {metric: np.zeros(len(findings) + 1) for metric in metrics}
        df = max(len(folded) - 1, 1) * (len(folded[0].parts) - 1)
        return Noise(findings, between, none, df)
    variance, interaction = {}, {}
    for metric in metrics:
        scores = [
            np.array([run.points[metric] for run in group]) for group in groups
        ]  # (S, F + 1) each
        variance[metric] = sum(map(_squares, scores)) / max(df, 1)
        several = [group for group in groups if len(group) > 1]
        shown = [(len(group) - 1) * _interaction(group, metric) for group in several]
        interaction[metric] = sum(shown, np.zeros(len(findings) + 1)) / max(df, 1)
    return Noise(findings, variance, interaction, df)


def arm_scores(runs: Sequence[Scored], noise: Noise | None = None) -> pd.DataFrame:
    """The scores of one arm, its `runs` of different seeds: one row per metric and finding, macro
    last.

    Columns: metric, finding, value, low, high (95 %), se_patients (with folds, with what the overlap
    of training sets adds), se_seeds, df, patients, images, positives, positive_patients, in_macro,
    folds (0 without), seeds. Findings with too few positive patients have no
    interval (`bootstrap.finding_interval`); that of macro average precision is corrected for the
    bootstrap's bias.
    """
    findings = common_findings(runs)
    runs = [run.on(findings) for run in runs]
    if isinstance(runs[0], FoldedRun) and (noise is None or noise.findings != findings):
        noise = training_noise([runs])
    tables = [_estimate([(1, runs)], noise, metric, level=True) for metric in runs[0].metrics]
    table = (
        pd.concat(tables, ignore_index=True)
        .rename(columns={"difference": "value"})
        .drop(columns="p")
    )
    table = table.assign(
        low=table["low"].clip(0, 1), high=table["high"].clip(0, 1), seeds=len(runs)
    )
    return table.drop(columns="one_training")


def differences(
    runs: Sequence[Scored],
    reference: Sequence[Scored],
    noise: Noise | None = None,
    pair_noise: Noise | None = None,
) -> pd.DataFrame:
    """How much better one arm is than another on the same test images: one row per metric and
    finding, macro last.

    Columns: metric, finding, difference, low, high (95 %), p (two-sided, not corrected),
    se_patients, se_seeds, df, patients, images, positives, positive_patients, in_macro, folds,
    seeds, reference_seeds, one_training. A finding with fewer than MIN_PATIENTS positive patients has
    neither interval nor p. With one training on each side and no other arm that shows how trainings
    differ (one_training) there is an interval over patients, but no p: the difference may be chance
    in training. Runs in 8 bits are compared seed by seed with those that they were made from, with
    the spread `pair_noise` of such differences. Raises ComparisonError where they do not compare.
    """
    findings = common_findings([*reference, *runs])
    runs, reference = ([run.on(findings) for run in group] for group in (runs, reference))
    pairs = paired(runs, reference)
    if (
        not pairs
        and isinstance(runs[0], FoldedRun)
        and (noise is None or noise.findings != findings)
    ):
        noise = training_noise([reference, runs])
    groups: Compared = [(1, pairs)] if pairs else [(1, runs), (-1, reference)]
    pooled = pair_noise if pairs else noise
    tables = [_estimate(groups, pooled, metric) for metric in runs[0].metrics]
    return pd.concat(tables, ignore_index=True).assign(
        seeds=len(runs), reference_seeds=len(pairs) or len(reference)
    )


Groups = Sequence[tuple[int, Sequence[Scored]]]
"""(sign, runs) of one arm, of two that are subtracted, or of two differences that are."""


def contrast(groups: Groups, noise: Noise | None, metric: str) -> pd.Series:
    """The signed sum of several arms' macro means on the same test images, one row of
    `differences`: signs (1, -1) are a difference, (1, -1, -1, 1) a difference of differences. One
    arm alone has a `metric` that is a difference itself."""
    findings = common_findings([run for _, runs in groups for run in runs])
    table = _estimate(
        [(sign, [run.on(findings) for run in runs]) for sign, runs in groups], noise, metric
    )
    return table[table["finding"] == MACRO].iloc[0]


Compared = Sequence[tuple[int, Sequence[Scored | RunDifference]]]
"""Groups; or one group of runs, each less the one that it was made from."""


def _estimate(
    groups: Compared, noise: Noise | None, metric: str, level: bool = False
) -> pd.DataFrame:
    """The signed sum of the groups' means (one arm, or two with signs 1 and -1) with Student's
    interval and p-value. level: it is a score from 0 to 1, and not a difference."""
    first = groups[0][1][0]
    value = np.sum(
        [sign * _points(runs, metric).mean(axis=0) for sign, runs in groups], axis=0
    )  # (F + 1,)
    resampled = np.sum(
        [sign * _resampled(runs, metric) for sign, runs in groups], axis=0
    )  # (RESAMPLES, F + 1)
    same = noise if noise is not None and noise.findings == first.findings else None
    patients, seeds, freedom, df = _variance_components(groups, resampled, same, metric)
    error = np.sqrt(patients + seeds)
    low, high = _student_interval(value, error, freedom)
    people, others = positive_patients(first.targets, first.patients)
    if level:
        less = len(first.parts) - 1  # degrees of freedom that the folds' own means take
        ends = finding_interval(
            metric,
            value[:-1],
            resampled[:, :-1],
            people - less,
            others - less,
            error[:-1],
            freedom[:-1],
        )
        low[:-1], high[:-1] = ends
        if len(first.findings) == 1:
            low[-1], high[-1] = low[0], high[0]
        elif metric == "average_precision":
            shift = bias(value[-1], resampled[:, -1])
            low[-1], high[-1] = low[-1] - shift, high[-1] - shift
    p = _p_values(value, error, freedom)
    one_training = not level and df == 0
    if one_training:
        p = np.full(len(p), np.nan)
    if not level:
        rare = np.append(np.minimum(people, others) < MIN_PATIENTS, False)
        low, high, p = (np.where(rare, np.nan, values) for values in (low, high, p))
    positives = (first.targets >= HALF).sum(axis=0)
    return pd.DataFrame(
        {
            "metric": metric,
            "finding": [*first.findings, MACRO],
            "difference": value,
            "low": low,
            "high": high,
            "p": p,
        }
        | {"se_patients": np.sqrt(patients), "se_seeds": np.sqrt(seeds), "df": freedom}
        | {"patients": len(np.unique(first.patients)), "images": len(first.images)}
        | {"positives": [*positives, positives.sum()], "positive_patients": [*people, people.sum()]}
        | {"in_macro": [*first.counted, True], "one_training": one_training}
        | {"folds": len(first.parts) if len(first.parts) > 1 else 0}
    )


def _variance_components(
    groups: Compared, resampled: np.ndarray, noise: Noise | None, metric: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Variance from patients, from seeds, degrees of freedom of their sum, (F + 1,) each; those of
    the seeds' alone.

    The seed-by-patient interaction shows in both and is taken from the patients' part. Where the
    seeds show less than the interaction, no more than what they show is taken: the sum is then the
    variance of the patients alone, which is known well.
    """
    patients = spread(resampled) ** 2
    share = sum(1 / len(runs) for _, runs in groups)
    df = sum(len(runs) - 1 for _, runs in groups)
    seeds = (
        np.sum([_squares(_points(runs, metric)) for _, runs in groups], axis=0) / max(df, 1) * share
    )
    if noise is not None and noise.df > df:
        seeds, df = np.fmax(seeds, noise.variance[metric] * share), noise.df
    both = np.zeros(resampled.shape[1])
    for _, runs in groups:
        if len(runs) > 1:
            both += _interaction(runs, metric) / len(runs)
        elif noise is not None:
            both += noise.interaction[metric]
    finite = ~np.isnan(patients)
    patients[finite] = np.fmax(patients[finite] - np.fmin(both, seeds)[finite], 0.0)
    patients *= overlap_factor(len(groups[0][1][0].parts))
    freedom = np.array([satterthwaite(a, b, df) for a, b in zip(patients, seeds, strict=True)])
    freedom[seeds < both] = np.inf
    if noise is None and isinstance(groups[0][1][0], RunDifference):
        freedom[:] = df  # so few differences alone say little about their spread
    return patients, seeds, freedom, df


def _student_interval(
    value: np.ndarray, error: np.ndarray, freedom: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """low and high (F + 1,) of the 95 % interval."""
    reach = stdtrit(freedom, (1 + LEVEL) / 2) * error
    return value - reach, value + reach


def _p_values(value: np.ndarray, error: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Two-sided p-values (F + 1,) that the value is 0; 1 where it is 0 without error."""
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * stdtr(freedom, -np.abs(value) / error)
    return np.where(error > 0, p, np.where(value == 0, 1.0, np.nan))


def _points(runs: Sequence[Scored | RunDifference], metric: str) -> np.ndarray:
    """The scores of the runs: (S, F + 1)."""
    return np.array([run.points[metric] for run in runs])


def _resampled(runs: Sequence[Scored | RunDifference], metric: str) -> np.ndarray:
    """The mean of the runs in each resample: (RESAMPLES, F + 1)."""
    return mean_defined(np.array([run.resampled[metric] for run in runs]), axis=0)


def _squares(scores: np.ndarray) -> np.ndarray:
    """Sum of squares of scores (S, F + 1) around their mean: (F + 1,)."""
    return ((scores - scores.mean(axis=0)) ** 2).sum(axis=0)


def _interaction(runs: Sequence[Scored | RunDifference], metric: str) -> np.ndarray:
    """Variance over patients of a run's deviation from the mean of the runs of its arm: (F +
    1,)."""
    each = np.array([run.resampled[metric] for run in runs])  # (S, RESAMPLES, F + 1)
    apart = each - mean_defined(each, axis=0)
    squares = mean_defined(
        (apart - mean_defined(apart, axis=1)[:, None]) ** 2, axis=1
    )  # (S, F + 1)
    return squares.sum(axis=0) / (len(runs) - 1)


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a == b) | (np.isnan(a) & np.isnan(b))
