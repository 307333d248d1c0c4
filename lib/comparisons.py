"""In: the folders of complete runs. Out: arms and their differences, with intervals over patients and over seeds.

The scheme. The score of an arm is the mean of its runs, one a seed; two arms are compared on the same test images.
Patients: the cluster bootstrap of `lib.intervals`, with the same resamples for every run, gives the variance of that
mean, or of the difference of two, over test patients. Seeds: the spread of the runs of an arm gives the variance over
trainings. Both are added, like cases and readers in reading studies (Obuchowski and Rockette 1995; Hillis 2007), and
the interval is Student's with Satterthwaite's degrees of freedom. Two or three seeds know their own spread badly, so
it is pooled over the arms of a study (`training_noise`), and the larger of the pooled and the arms' own counts.
With a single seed and no study nothing is known of the second part, and the table says seeds 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from lib.intervals import INTERVAL_METRICS, bootstrap_scores
from lib.metrics import MACRO, evaluate
from lib.results import is_complete, read_json

RESAMPLES = 1000
LEVEL = 0.95


class ComparisonError(ValueError):
    """Why runs cannot be compared, in one sentence."""


@dataclass(frozen=True)
class Answers:
    """One run's answers to its test images: targets and probs (N, F), thresholds (F,), images sorted by id."""

    run: str
    seed: int
    findings: tuple[str, ...]
    images: np.ndarray
    patients: np.ndarray
    targets: np.ndarray
    probs: np.ndarray
    thresholds: np.ndarray
    fingerprint: str = ""  # of the test images and labels, from the record

    def on(self, findings: Sequence[str]) -> "Answers":
        """The same for some findings, and the images that are annotated for at least one of them."""
        columns = [self.findings.index(name) for name in findings]
        kept = ~np.isnan(self.targets[:, columns]).all(axis=1)
        if tuple(findings) == self.findings and kept.all():
            return self  # with what it has computed
        parts = (self.images, self.patients, self.targets[:, columns], self.probs[:, columns], self.thresholds[columns])
        return Answers(self.run, self.seed, tuple(findings), *parts, self.fingerprint).rows(kept)

    def rows(self, kept: np.ndarray) -> "Answers":
        """The same for the images where kept (N,) is true."""
        parts = (self.images[kept], self.patients[kept], self.targets[kept], self.probs[kept])
        return Answers(self.run, self.seed, self.findings, *parts, self.thresholds, self.fingerprint)

    @cached_property
    def points(self) -> dict[str, np.ndarray]:
        """metric -> (F + 1,): each finding, then macro."""
        table = evaluate(self.targets, self.probs, self.findings, self.thresholds)
        return {metric: table[metric].to_numpy(float) for metric in INTERVAL_METRICS}

    @cached_property
    def resampled(self) -> dict[str, np.ndarray]:
        """metric -> (RESAMPLES, F + 1), NaN where a class is missing; macro is the mean of what is there."""
        scores = bootstrap_scores(self.targets, self.probs, self.patients, self.thresholds, n=RESAMPLES)
        return {metric: np.column_stack([values, _mean(values)]) for metric, values in scores.items()}


def read_answers(folder: Path) -> Answers:
    """The test answers of a complete run; raises ComparisonError when there are none."""
    if not is_complete(folder):
        raise ComparisonError(f"{folder} holds no complete run (no record.json): run it, or name another folder")
    config = read_json(folder / "config.json")
    fingerprint = read_json(folder / "record.json")["data"]["test_fingerprint"]
    findings = tuple(config["findings"])
    frame = pd.read_parquet(folder / "predictions.parquet").query("split == 'test'").sort_values("image")
    if frame.empty:
        raise ComparisonError(f"{folder} has no test images: there is nothing to compare")
    columns = [frame[[f"{kind}_{name}" for name in findings]].to_numpy(float) for kind in ("target", "prob")]
    metrics = pd.read_csv(folder / "metrics.csv").set_index("finding").loc[list(findings)]
    thresholds = metrics["threshold"].where(metrics["threshold_from"] != "default")
    names = frame["image"].to_numpy(str), frame["patient"].to_numpy(str)
    return Answers(folder.name, config["seed"], findings, *names, *columns, thresholds.to_numpy(float), fingerprint)


def common_findings(runs: Sequence[Answers]) -> tuple[str, ...]:
    """The findings that all runs answer for; raises ComparisonError where there is none, or test images differ."""
    first = runs[0]
    shared = tuple(name for name in first.findings if all(name in run.findings for run in runs))
    if not shared:
        raise ComparisonError(f"{' and '.join(dict.fromkeys(run.run for run in runs))} share no finding")
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
        if not np.array_equal(ours.targets, theirs.targets, equal_nan=True):
            changed = int((~_same(ours.targets, theirs.targets)).any(axis=1).sum())
            raise ComparisonError(f"{ours.run} and {theirs.run}: the labels of {changed} test images differ")
    return shared


@dataclass(frozen=True)
class Noise:
    """Variance of a run's score over trainings: metric -> (F + 1,), each finding and macro; df: degrees of freedom."""

    findings: tuple[str, ...]
    variance: dict[str, np.ndarray]
    df: int


def training_noise(arms: Sequence[Sequence[Answers]]) -> Noise:
    """The spread over seeds, pooled over arms (each its runs) that answer for the same findings."""
    findings = arms[0][0].findings
    groups = [[run.points for run in arm] for arm in arms if arm[0].findings == findings]
    df = sum(len(group) - 1 for group in groups)
    variance = {}
    for metric in INTERVAL_METRICS:
        scores = [np.array([points[metric] for points in group]) for group in groups]  # (S, F + 1) each
        squares = sum(((arm - arm.mean(axis=0)) ** 2).sum(axis=0) for arm in scores)
        variance[metric] = squares / max(df, 1)
    return Noise(findings, variance, df)


def arm_scores(runs: Sequence[Answers], noise: Noise | None = None) -> pd.DataFrame:
    """The scores of one arm, its `runs` of different seeds: one row a metric and finding, macro last.

    Columns: metric, finding, value, low, high (95 %), se_patients, se_seeds, df, patients, images, positives, seeds.
    """
    findings = common_findings(runs)
    runs = [run.on(findings) for run in runs]
    tables = []
    for metric in INTERVAL_METRICS:
        points = np.array([run.points[metric] for run in runs])  # (S, F + 1)
        resampled = _mean(np.array([run.resampled[metric] for run in runs]), axis=0)  # (RESAMPLES, F + 1)
        own = points.var(axis=0, ddof=1) / len(runs) if len(runs) > 1 else np.zeros(points.shape[1])
        spread = _larger(own, len(runs) - 1, noise, findings, metric, 1 / len(runs))
        tables.append(_estimate(points.mean(axis=0), resampled, *spread, runs[0], metric))
    table = pd.concat(tables, ignore_index=True).rename(columns={"difference": "value"}).drop(columns="p")
    return table.assign(low=table["low"].clip(0, 1), high=table["high"].clip(0, 1), seeds=len(runs))


def differences(runs: Sequence[Answers], reference: Sequence[Answers], noise: Noise | None = None) -> pd.DataFrame:
    """How much better one arm is than another on the same test images: one row a metric and finding, macro last.

    Columns: metric, finding, difference, low, high (95 %), p (two-sided, not corrected), se_patients, se_seeds, df,
    patients, images, positives, seeds, reference_seeds. Raises ComparisonError where they do not compare.
    """
    findings = common_findings([*reference, *runs])
    runs, reference = ([run.on(findings) for run in group] for group in (runs, reference))
    share = 1 / len(runs) + 1 / len(reference)
    tables = []
    for metric in INTERVAL_METRICS:
        ours, theirs = (np.array([run.points[metric] for run in group]) for group in (runs, reference))  # (S, F + 1)
        resampled = [_mean(np.array([run.resampled[metric] for run in group]), axis=0) for group in (runs, reference)]
        squares = sum(((group - group.mean(axis=0)) ** 2).sum(axis=0) for group in (ours, theirs))
        df = len(ours) + len(theirs) - 2
        spread = _larger(squares / max(df, 1) * share, df, noise, findings, metric, share)
        change = ours.mean(axis=0) - theirs.mean(axis=0)
        tables.append(_estimate(change, resampled[0] - resampled[1], *spread, runs[0], metric))
    return pd.concat(tables, ignore_index=True).assign(seeds=len(runs), reference_seeds=len(reference))


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values corrected for their number by Holm (1979); NaN stays NaN and is not counted."""
    p = np.asarray(p, dtype=float)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    corrected = np.full(len(p), np.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return corrected


def detectable(variance_patients: float, variance_seeds: float, df_seeds: float, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided 5 % test finds with this power: (t.975 + t.power) standard errors.

    The variances are those of the difference of two means; Satterthwaite's degrees of freedom as in the intervals.
    """
    df = _satterthwaite(variance_patients, variance_seeds, df_seeds)
    tail = (1 + LEVEL) / 2
    return float((stats.t.ppf(tail, df) + stats.t.ppf(power, df)) * np.sqrt(variance_patients + variance_seeds))


def _estimate(
    value: np.ndarray, resampled: np.ndarray, spread: np.ndarray, df_seeds: int, run: Answers, metric: str
) -> pd.DataFrame:
    """Student's interval and p-value around value (F + 1,) from both variances; df_seeds 0: seeds are not known."""
    counted = (~np.isnan(resampled)).sum(axis=0) > 1
    patients = np.full(len(value), np.nan)
    patients[counted] = np.nanvar(resampled[:, counted], axis=0, ddof=1)
    error = np.sqrt(patients + spread)
    df = np.array([_satterthwaite(a, b, df_seeds) for a, b in zip(patients, spread, strict=True)])
    reach = stats.t.ppf((1 + LEVEL) / 2, df) * error
    with np.errstate(invalid="ignore", divide="ignore"):
        p = np.where(error > 0, 2 * stats.t.sf(np.abs(value) / error, df), np.where(value == 0, 1.0, np.nan))
    positives = (run.targets == 1).sum(axis=0)
    return pd.DataFrame(
        {"metric": metric, "finding": [*run.findings, MACRO], "difference": value, "low": value - reach}
        | {"high": value + reach, "p": p, "se_patients": np.sqrt(patients), "se_seeds": np.sqrt(spread), "df": df}
        | {"patients": len(np.unique(run.patients)), "images": len(run.images)}
        | {"positives": [*positives, positives.sum()]}
    )


def _satterthwaite(patients: float, seeds: float, df_seeds: float) -> float:
    """Degrees of freedom of the sum of two variances, the first of them known well (Satterthwaite 1946)."""
    if seeds <= 0 or df_seeds <= 0 or np.isnan(patients + seeds):
        return np.inf
    return float(df_seeds * ((patients + seeds) / seeds) ** 2)


def _larger(
    own: np.ndarray, df: int, noise: Noise | None, findings: tuple[str, ...], metric: str, share: float
) -> tuple[np.ndarray, int]:
    """Variance over seeds (F + 1,) and its df: the arms' own, or the study's where that is known and larger."""
    if noise is None or noise.df <= df or noise.findings != findings:
        return own, df
    return np.fmax(own, noise.variance[metric] * share), noise.df


def _mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean of what is not NaN; NaN where all is."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=axis) / np.maximum(count, 1), np.nan)


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a == b) | (np.isnan(a) & np.isnan(b))
