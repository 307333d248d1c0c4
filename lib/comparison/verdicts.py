"""In: the runs of a study, or folders named by hand. Out: each arm against the reference, in tables
and sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lib.comparison.arms import (
    RunPredictions,
    arm_scores,
    common_findings,
    differences,
    read_run_predictions,
    resample_all,
    training_noise,
)
from lib.comparison.significance import detectable, holm
from lib.exceptions import ComparisonError
from lib.metrics.bootstrap import ALPHA
from lib.metrics.scores import MACRO, MIN_PATIENTS
from lib.runs.study import read_plan, read_runs

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Comparison:
    """Arms compared with `reference`: `scores` and `changes` have a row per arm, metric and
    finding, macro included.

    `changes` are those of `comparisons.differences` with p_holm (corrected over the arms, per
    metric and finding) and detectable (the smallest true difference found with 80 % power when it
    is the first to be corrected, the hardest step of Holm's). Only the `primary` metric has
    p-values and verdicts: of three metrics that are each tested, one differs by chance in 7 to 15 %
    of studies. `refused`: why an arm does not compare.
    """

    reference: str
    scores: pd.DataFrame
    changes: pd.DataFrame
    refused: dict[str, str]
    primary: str = "auroc"

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
        """Which findings count in the means, and which do not, with their numbers of positive
        patients."""
        rows = self.scores[
            (self.scores["arm"] == self.reference) & (self.scores["metric"] == self.primary)
        ]
        rows = rows[rows["finding"] != MACRO]
        left_out = rows[~rows["in_macro"].astype(bool)]
        if left_out.empty:
            return []
        names = ", ".join(
            f"{row.finding} ({row.positive_patients})" for row in left_out.itertuples()
        )
        return [
            f"Macro means are over the {len(rows) - len(left_out)} of {len(rows)} findings with at least "
            f"{MIN_PATIENTS} positive and as many negative test patients; without: {names}."
        ]


def compare_arms(
    arms: Mapping[str, Sequence[RunPredictions]], reference: str, primary: str = "auroc"
) -> Comparison:
    """Every arm against `reference`, on the test images and findings that both answer for."""
    common_findings(arms[reference])
    refused = {arm: reason for arm, runs in arms.items() if (reason := _differing(runs))}
    arms = {arm: runs for arm, runs in arms.items() if arm not in refused}
    resample_all([run for runs in arms.values() for run in runs])
    noise = training_noise(
        [arms[reference], *(runs for arm, runs in arms.items() if arm != reference)]
    )
    scores, changes = [], []
    for arm, runs in arms.items():
        scores.append(arm_scores(runs, noise).assign(arm=arm))
        if arm == reference:
            continue
        try:
            table = differences(runs, arms[reference], noise)
        except ComparisonError as error:
            refused[arm] = str(error)
            continue
        changes.append(table.assign(arm=arm, findings=len(table["finding"].unique()) - 1))
    columns = ["arm", "metric", "finding", "difference", "low", "high", "p", "p_holm", "detectable"]
    columns += ["se_patients", "one_training", "secondary"]
    if not changes:
        return Comparison(
            reference,
            pd.concat(scores, ignore_index=True),
            pd.DataFrame(columns=columns),
            refused,
            primary,
        )
    table = pd.concat(changes, ignore_index=True)
    table["p_holm"] = table.groupby(["metric", "finding"])["p"].transform(holm)
    hardest = ALPHA / table.groupby(["metric", "finding"])["p"].transform("count").clip(
        lower=1
    )  # Holm's first step
    table["detectable"] = [
        _detectable(row, alpha) for row, alpha in zip(table.itertuples(), hardest, strict=True)
    ]
    table["secondary"] = table["metric"] != primary
    table.loc[table["secondary"], ["p", "p_holm"]] = np.nan
    return Comparison(reference, pd.concat(scores, ignore_index=True), table, refused, primary)


def _differing(runs: Sequence[RunPredictions]) -> str:
    """Why the seeds of an arm do not compare with each other, or nothing."""
    try:
        common_findings(runs)
    except ComparisonError as error:
        return str(error)
    return ""


def compare_study(folder: Path) -> Comparison:
    """The complete arms of a study against its reference; raises ComparisonError when the reference
    is not complete."""
    runs = read_runs(folder)
    runs = runs[~runs["prerequisite"]]
    plan = read_plan(folder)
    reference = next(run["arm"] for run in plan["runs"].values() if run["reference"])
    arms: dict[str, list[RunPredictions]] = {}
    for name, arm in zip(runs["run"], runs["arm"], strict=True):
        arms.setdefault(arm, []).append(read_run_predictions(folder / name))
    if reference not in arms:
        raise ComparisonError(
            f"{folder}: no run of the reference arm {reference} is complete, so nothing compares"
        )
    return compare_arms(arms, reference, plan.get("primary", "auroc"))


def compare_folders(folders: Sequence[Path]) -> Comparison:
    """Runs and studies named by hand, the first the reference: a folder of a run is an arm, a
    study's its reference.

    With one study alone, its arms. Raises ComparisonError where there are not two arms, or test
    images differ.
    """
    if len(folders) == 1 and (folders[0] / "plan.json").exists():
        return compare_study(folders[0])
    arms = {}
    for folder in folders:
        name = folder.name if folder.name not in arms else f"{folder.parent.name}/{folder.name}"
        arms[name] = (
            _reference_runs(folder)
            if (folder / "plan.json").exists()
            else [read_run_predictions(folder)]
        )
    if len(arms) < 2:
        raise ComparisonError(
            "name at least two different runs or studies, or one study, to compare"
        )
    verdicts = compare_arms(arms, next(iter(arms)))
    if verdicts.refused:
        raise ComparisonError("; ".join(verdicts.refused.values()))
    return verdicts


def _reference_runs(folder: Path) -> list[RunPredictions]:
    runs = read_runs(folder)
    names = runs.loc[runs["is_reference"].astype(bool), "run"]
    if names.empty:
        raise ComparisonError(f"{folder}: no run of its reference arm is complete")
    return [read_run_predictions(folder / name) for name in names]


def power_table(verdicts: Comparison, seeds: Sequence[int] = (1, 2, 3, 5, 10)) -> pd.DataFrame:
    """The smallest true difference in a macro metric that this test set finds with 80 % power, by
    number of seeds.

    One row per metric: the median over the arms, with as many seeds for either arm. Patients are
    those of the test set: more seeds shrink only what comes from training, never what comes from
    few patients.
    """
    rows = {}
    for metric, name in NAMES.items():
        macro = verdicts.macro(metric).dropna(subset=["se_patients"])
        macro = macro[~macro["one_training"].astype(bool)]
        if macro.empty:
            continue
        single = macro["se_seeds"] ** 2 / (
            1 / macro["seeds"] + 1 / macro["reference_seeds"]
        )  # of one run
        patients = macro["se_patients"] ** 2
        share = macro["se_seeds"] ** 2 / (patients + macro["se_seeds"] ** 2)
        freedom = (macro["df"] * share**2).where(
            share > 0, 0
        )  # the degrees of freedom of the seeds' part
        rows[f"macro {name}"] = {
            f"{k} seed{'s' * (k > 1)}": _median(patients, single * 2 / k, freedom) for k in seeds
        }
    return pd.DataFrame(rows).T


def _median(patients: pd.Series, spread: pd.Series, freedom: pd.Series) -> float:
    return float(
        np.median([detectable(*one) for one in zip(patients, spread, freedom, strict=True)])
    )


def _detectable(row: Any, alpha: float) -> float:
    if not np.isfinite(row.se_patients) or row.one_training:
        return np.nan
    patients, seeds = row.se_patients**2, row.se_seeds**2
    freedom = row.df * (seeds / (patients + seeds)) ** 2 if seeds > 0 else 0
    return detectable(patients, seeds, freedom, alpha)


NAMES = {"auroc": "AUROC", "average_precision": "average precision", "f1": "F1"}


def sentence(row: pd.Series, reference: str) -> str:
    """What one row of `changes` says: better, worse, or that the data cannot tell, with the numbers
    for it."""
    what = (
        f"macro {NAMES[row['metric']]}"
        if row["findings"] > 1
        else f"{NAMES[row['metric']]} of one shared finding"
    )
    seeds = _count(row["seeds"], "seed")
    if row["seeds"] != row["reference_seeds"]:
        seeds = f"{row['seeds']} against {_count(row['reference_seeds'], 'seed')}"
    counts = f"{seeds}, {_count(row['patients'], 'patient')}"
    measured = f"{what} differs by {row['difference']:+.3f} ({row['low']:.3f} to {row['high']:.3f}"
    if row["one_training"] and np.isfinite(row["difference"]):
        return (
            f"{row['arm']} and {reference} have one training each: {measured} over "
            f"{_count(row['patients'], 'patient')}), which may be chance in training. "
            "This is no verdict: run another seed."
        )
    if row["secondary"] and np.isfinite(row["difference"]):
        return f"Secondary, no verdict: {row['arm']} against {reference}, {measured}, {counts})."
    if np.isnan(row["p_holm"]):
        return f"{row['arm']} and {reference} cannot be compared by {what}: a class is missing ({counts})."
    numbers = (
        f"({row['low']:.3f} to {row['high']:.3f}, {p_text(row['p_holm'])} corrected, {counts})"
    )
    if row["p_holm"] >= ALPHA:
        found = f"only differences over about {row['detectable']:.3f} would show"
        if row["detectable"] >= 1:
            found = "with so few positive films no difference could show"
        return (
            f"{row['arm']} and {reference} cannot be told apart: {what} differs by {row['difference']:+.3f} {numbers}; "
            f"{found}."
        )
    size, ends = abs(row["difference"]), sorted([abs(row["low"]), abs(row["high"])])
    numbers = f"({ends[0]:.3f} to {ends[1]:.3f}, {p_text(row['p_holm'])} corrected, {counts})"
    verdict = "better" if row["difference"] > 0 else "worse"
    return f"{row['arm']} is {verdict} than {reference} by {size:.3f} {what} {numbers}."


def p_text(p: float) -> str:
    """A p-value as papers print it: 'p < 0.001', or two significant digits."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def summary(table: pd.DataFrame, verdicts: "Comparison") -> str:
    """One row per arm, in Markdown: macro scores with intervals, accuracy and its floor, and the
    primary verdict."""
    scores = verdicts.scores[verdicts.scores["finding"] == MACRO].set_index(["arm", "metric"])
    changes = verdicts.macro().set_index("arm")
    primary = NAMES[verdicts.primary]
    heads = [
        "arm",
        "changes",
        *(f"macro {name}" for name in NAMES.values()),
        "accuracy (all-negative)",
    ]
    lines = [[*heads, f"{primary} against the reference"], ["---"] * (len(heads) + 1)]
    for arm, runs in table[~table["prerequisite"]].groupby("arm", sort=False):
        what = "the reference" if arm == verdicts.reference else _in_few(runs["what"].iloc[0])
        row = [arm, what]
        row += [_interval(scores.loc[(arm, m)]) if (arm, m) in scores.index else "" for m in NAMES]
        row.append(f"{runs['accuracy'].mean():.3f} ({runs['accuracy_all_negative'].mean():.3f})")
        verdict = (
            _verdict(changes.loc[arm])
            if arm in changes.index
            else "not compared"
            if arm in verdicts.refused
            else ""
        )
        lines.append([*row, verdict])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _interval(row: pd.Series) -> str:
    if np.isnan(row["low"]):
        return f"{row['value']:.3f} (too few positives)"
    return f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def _in_few(what: str | float) -> str:
    """What an arm changes; an arm that changes no other run, but has parameters of its own, has
    nothing there."""
    if not isinstance(what, str) or not what:
        return "all its own"
    return what if len(what) <= 50 else "several (see the study)"


def _verdict(row: pd.Series) -> str:
    if row["one_training"]:
        return f"one training each, no verdict: {row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
    if np.isnan(row["p_holm"]):
        return "not defined"
    word = (
        "cannot tell" if row["p_holm"] >= ALPHA else "better" if row["difference"] > 0 else "worse"
    )
    one = ", on one finding" if row["findings"] == 1 else ""
    numbers = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}), {p_text(row['p_holm'])}"
    return f"**{word}**{one}: {numbers}"


def verdict_text(verdicts: "Comparison") -> str:
    """The scores of the arms and one sentence a comparison, for a terminal."""
    macro = verdicts.scores[verdicts.scores["finding"] == MACRO]
    rows = []
    for arm, group in macro.groupby("arm", sort=False):
        row = {"arm": arm + " *" * (arm == verdicts.reference), "seeds": group["seeds"].iloc[0]}
        for one in group.itertuples():
            row[f"macro {NAMES[one.metric]} (95 %)"] = _interval(pd.Series(one._asdict()))
        rows.append(row)
    return "\n".join(
        [
            pd.DataFrame(rows).to_string(index=False),
            "* the reference",
            "",
            *verdicts.all_sentences(),
        ]
    )


def power_text(power: pd.DataFrame, patients: int) -> str:
    """The table of `verdicts.power_table` on so many test patients, with what it says."""
    if power.empty:
        return (
            "no arm compares with the reference yet, so the noise of a difference is not known: "
            "run more of the study"
        )
    return (
        f"{power.to_string(float_format='{:.3f}'.format)}\n"
        f"the smallest true difference that {patients} test patients and so many seeds show with 80 % power "
        "(two-sided, 5 %, before any correction)"
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
