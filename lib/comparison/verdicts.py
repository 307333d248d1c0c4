"""In: the runs of a study, or of arms. Out: each arm against the reference, in tables and
sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.comparison.arms import (
    Noise,
    RunPredictions,
    Scored,
    arm_scores,
    common_findings,
    differences,
    read_run_predictions,
    resample_all,
    training_noise,
)
from lib.comparison.ensembles import ensemble_scores
from lib.comparison.folds import fold_seeds
from lib.comparison.looks import Looks, count_looks, looks_text, read_looks
from lib.comparison.margins import correct_claims, demonstrable_margin, margin_tests
from lib.comparison.significance import detectable, holm
from lib.comparison.words import NAMES, sentence, tested_on
from lib.exceptions import ComparisonError
from lib.metrics.bootstrap import ALPHA, INTERVAL_METRICS
from lib.metrics.scores import MACRO, MIN_PATIENTS
from lib.runs.study import read_plan, read_runs


@dataclass(frozen=True)
class Comparison:
    """Arms compared with `reference`: `scores` and `changes` have a row per arm, metric and
    finding, macro included.

    `changes` are those of `arms.differences` with p_holm (corrected over the arms, per
    metric and finding) and detectable (the smallest true difference found with 80 % power when it
    is the first to be corrected, the hardest step of Holm's). Only the `primary` metric has
    p-values and verdicts: of three metrics that are each tested, one differs by chance in 7 to 15 %
    of studies. With a `margin` for it, p_equivalent and p_not_worse are corrected together with p_holm
    (`margins.correct_claims`), and demonstrable is the smallest margin that would show. `refused`:
    why an arm does not compare. `by_seed`: the score of each seed of an arm,
    with folds their mean: arm, seed, metric, finding, value. `ensembles`: scores of the arms'
    ensembles (`ensembles.ensemble_scores`). `remarks`: what was left out, in sentences.
    """

    reference: str
    scores: pd.DataFrame
    changes: pd.DataFrame
    refused: dict[str, str]
    primary: str = "auroc"
    by_seed: pd.DataFrame = field(default_factory=pd.DataFrame)
    ensembles: pd.DataFrame = field(default_factory=pd.DataFrame)
    remarks: tuple[str, ...] = ()
    margin: float | None = None

    @property
    def folds(self) -> int:
        """How many folds the test patients are in; 0 without folds."""
        return int(self.scores["folds"].max())

    def macro(self, metric: str | None = None) -> pd.DataFrame:
        """The rows of `changes` that hold the means over findings, by default of the primary
        metric."""
        return self.changes[
            (self.changes["metric"] == (metric or self.primary))
            & (self.changes["finding"] == MACRO)
        ]

    def sentences(self, metric: str | None = None) -> list[str]:
        """One sentence per arm, written from the numbers; those that do not compare say why."""
        text = [sentence(row, self.reference) for _, row in self.macro(metric).iterrows()]
        return text + [f"{arm} is not compared: {reason}." for arm, reason in self.refused.items()]

    def all_sentences(self) -> list[str]:
        """What the macro means are over, then the sentences of the primary metric, then those of
        the others."""
        metrics = [self.primary, *(metric for metric in NAMES if metric != self.primary)]
        return list(
            dict.fromkeys(
                [*self.notes(), *(line for metric in metrics for line in self.sentences(metric))]
            )
        )

    def notes(self) -> list[str]:
        """What the scores are means of and on, which findings count in the macro means and which do
        not (with their numbers of positive patients), and what was left out."""
        rows = self.scores[
            (self.scores["arm"] == self.reference) & (self.scores["metric"] == self.primary)
        ]
        notes = [tested_on(row) for _, row in rows[rows["finding"] == MACRO].iterrows()]
        rows = rows[rows["finding"] != MACRO]
        left_out = rows[~rows["in_macro"].astype(bool)]
        if left_out.empty:
            return [*notes, *self.remarks]
        names = ", ".join(
            f"{row.finding} ({row.positive_patients})" for row in left_out.itertuples()
        )
        where = " in every fold" if self.folds else ""
        notes.append(
            f"Macro means are over the {len(rows) - len(left_out)} of {len(rows)} findings with at least "
            f"{MIN_PATIENTS} positive and as many negative test patients{where}; without: {names}."
        )
        return [*notes, *self.remarks]


def compare_arms(
    arms: Mapping[str, Sequence[RunPredictions]],
    reference: str,
    primary: str = "auroc",
    margin: float | None = None,
    looks: Looks | None = None,
) -> Comparison:
    """Every arm against `reference`, on the test images and findings that both answer for.

    arms: the runs of each, one per seed, or one per seed and fold. margin: the difference in the
    primary metric below which arms count as equivalent; None asks for differences alone. looks: what
    was seen on the way, where seeds were added until verdicts were clear. Raises ComparisonError
    where the runs of the reference do not belong together.
    """
    seeds, refused, remarks = runs_by_seed(arms)
    if reference in refused:
        raise ComparisonError(refused[reference])
    resample_all([run for runs in seeds.values() for run in runs])
    noise = training_noise(
        [seeds[reference], *(runs for arm, runs in seeds.items() if arm != reference)]
    )
    ensembles, missing = ensemble_scores(seeds)
    remarks += [f"No ensemble of {arm}: {reason}." for arm, reason in missing.items()]
    about = {"primary": primary, "by_seed": _points(seeds), "ensembles": ensembles}
    about |= {"remarks": tuple(remarks), "margin": margin}
    scored, table, different = against(seeds, reference, noise)
    refused |= different
    columns = ["arm", "metric", "finding", "difference", "low", "high", "p", "p_holm", "detectable"]
    columns += ["se_patients", "one_training", "secondary"]
    columns += ["p_equivalent", "p_not_worse", "margin", "demonstrable"] if margin else []
    if table.empty:
        return Comparison(reference, scored, pd.DataFrame(columns=columns), refused, **about)
    table["secondary"] = table["metric"] != primary
    if margin:
        table = with_margin(table, margin)
    if looks is not None:
        table = count_looks(table, looks)
        about["remarks"] += (looks_text(looks),)
    table = corrected(table, ["metric", "finding"])
    if margin:
        table = with_claims(table)
    table.loc[table["secondary"], ["p", "p_holm"]] = np.nan
    return Comparison(reference, scored, table, refused, **about)


def against(
    seeds: Mapping[str, Sequence[Scored]], reference: str, noise: Noise
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """The tables of `arms.arm_scores` of every arm and of `arms.differences` from the reference's
    (empty where nothing compares), with a column arm; and why an arm does not compare."""
    scores, changes, refused = [], [], {}
    for arm, runs in seeds.items():
        scores.append(arm_scores(runs, noise).assign(arm=arm))
        if arm == reference or reference not in seeds:
            continue
        try:
            table = differences(runs, seeds[reference], noise)
        except ComparisonError as error:
            refused[arm] = str(error)
            continue
        changes.append(table.assign(arm=arm, findings=len(table["finding"].unique()) - 1))
    table = pd.concat(changes, ignore_index=True) if changes else pd.DataFrame()
    return pd.concat(scores, ignore_index=True), table, refused


def corrected(changes: pd.DataFrame, family: list[str]) -> pd.DataFrame:
    """Differences with p_holm, corrected within rows that agree in the columns `family`, and
    detectable (see `Comparison`)."""
    p = changes.groupby(family)["p"]
    hardest = ALPHA / p.transform("count").clip(lower=1)  # Holm's first step
    found = [_detectable(row, a) for row, a in zip(changes.itertuples(), hardest, strict=True)]
    return changes.assign(p_holm=p.transform(holm), detectable=found)


def with_margin(table: pd.DataFrame, margin: float) -> pd.DataFrame:
    """`table` of differences with margin, and p_equivalent and p_not_worse of the primary metric, not
    corrected."""
    tests = margin_tests(
        table["difference"].to_numpy(float),
        np.hypot(table["se_patients"], table["se_seeds"]).to_numpy(float),
        table["df"].to_numpy(float),
        margin,
    )
    table = table.assign(margin=margin, p_equivalent=tests[0], p_not_worse=tests[1])
    table.loc[table["p"].isna() | table["secondary"], ["p_equivalent", "p_not_worse"]] = np.nan
    return table


def with_claims(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with demonstrable, and p_holm, p_equivalent and p_not_worse corrected together."""
    hardest = ALPHA / table.groupby(["metric", "finding"])["p"].transform("count").clip(lower=1)
    table["demonstrable"] = [
        demonstrable_margin(np.hypot(row.se_patients, row.se_seeds), row.df, alpha)
        if np.isfinite(row.p_equivalent)
        else np.nan
        for row, alpha in zip(table.itertuples(), hardest, strict=True)
    ]
    for _, rows in table[~table["secondary"]].groupby("finding"):
        columns = ["p_holm", "p_equivalent", "p_not_worse"]
        table.loc[rows.index, columns] = correct_claims(rows).to_numpy()
    return table


def runs_by_seed(
    arms: Mapping[str, Sequence[RunPredictions]],
) -> tuple[dict[str, list[Scored]], dict[str, str], list[str]]:
    """The runs of each arm by seed, with folds one for all of them; why an arm's runs do not belong
    together; and which seeds are left out, in sentences."""
    seeds: dict[str, list[Scored]] = {}
    refused, remarks = {}, []
    for arm, runs in arms.items():
        try:
            if not any(run.folds for run in runs):
                whole: list[Scored] = list(runs)
            else:
                made, left = fold_seeds(runs)
                whole = list(made)
                remarks += [
                    f"{arm}: seed {seed} is left out, since not all of its folds are complete."
                    for seed in left
                ]
            common_findings(whole)
            seeds[arm] = whole
        except ComparisonError as error:
            refused[arm] = str(error)
    return seeds, refused, remarks


def _points(arms: Mapping[str, Sequence[Scored]]) -> pd.DataFrame:
    """The scores of every run: arm, seed, metric, finding (macro last), value."""
    rows = [
        {"arm": arm, "seed": run.seed, "metric": metric, "finding": finding, "value": value}
        for arm, runs in arms.items()
        for run in runs
        for metric in INTERVAL_METRICS
        for finding, value in zip([*run.findings, MACRO], run.points[metric], strict=True)
    ]
    return pd.DataFrame(rows)


def seed_scores(runs: pd.DataFrame, verdicts: Comparison, finding: str = MACRO) -> pd.DataFrame:
    """One row per arm and seed for a figure, from `runs` with one row per run: with folds its scores
    are those of all folds, without folds it is `runs` as it is.

    runs: arm, seed, and auroc, average_precision and f1 of `finding`; the other columns are those
    of the seed's first run, and n_auroc and so on the number of findings in the macro mean.
    Intervals of single runs, auroc_low and so on, are left out, and so are seeds that `verdicts`
    does not count.
    """
    if not verdicts.folds:
        return runs
    rows = verdicts.by_seed[verdicts.by_seed["finding"] == finding]
    values = rows.pivot(index=["arm", "seed"], columns="metric", values="value")
    ends = [f"{metric}_{end}" for metric in INTERVAL_METRICS for end in ("low", "high")]
    first = runs.drop_duplicates(["arm", "seed"]).drop(
        columns=[*ends, *INTERVAL_METRICS], errors="ignore"
    )
    table = first.merge(values.reset_index(), on=["arm", "seed"])
    one = verdicts.scores[(verdicts.scores["metric"] == verdicts.primary)]
    counted = one[one["finding"] != MACRO].groupby("arm")["in_macro"].sum()
    for metric in INTERVAL_METRICS:
        table[f"n_{metric}"] = table["arm"].map(counted) if finding == MACRO else 1
    return table


def compare_study(folder: Path, margin: float | None = None) -> Comparison:
    """The complete arms of a study against its reference; raises ComparisonError when the reference
    is not complete. margin: of the primary metric, in place of the study's own."""
    plan, arms = read_plan(folder), read_arms(folder)
    reference = next(run["arm"] for run in plan["runs"].values() if run["reference"])
    if reference not in arms:
        raise ComparisonError(
            f"{folder}: no run of the reference arm {reference} is complete, so nothing compares"
        )
    primary = plan.get("primary", "auroc")
    margins = plan.get("margin") or {}
    chosen = margins.get(primary) if margin is None else margin
    return compare_arms(arms, reference, primary, chosen, read_looks(folder))


def read_arms(folder: Path) -> dict[str, list[RunPredictions]]:
    """arm -> its complete runs, in the plan's order; raises RunError as `read_runs`."""
    runs = read_runs(folder)
    runs = runs[~runs["prerequisite"]]
    arms: dict[str, list[RunPredictions]] = {}
    for name, arm in zip(runs["run"], runs["arm"], strict=True):
        arms.setdefault(arm, []).append(read_run_predictions(folder / name))
    return arms


def _detectable(row: Any, alpha: float) -> float:
    if not np.isfinite(row.se_patients) or row.one_training:
        return np.nan
    patients, seeds = row.se_patients**2, row.se_seeds**2
    freedom = row.df * (seeds / (patients + seeds)) ** 2 if seeds > 0 else 0
    return detectable(patients, seeds, freedom, alpha)
