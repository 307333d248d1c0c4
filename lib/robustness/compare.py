"""In: the folder of a study whose runs were answered under corruption. Out: every arm's AUROC per
strength, areas and losses with intervals, and how they differ from the reference's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib.comparison.arms import Noise, Scored, contrast, resample_all, training_noise
from lib.comparison.verdicts import against, corrected, read_arms, runs_by_seed
from lib.metrics.scores import MACRO
from lib.robustness.curves import AREA, AREAS, LOSSES, METRICS, RobustRun, robust
from lib.robustness.kept import read_answers
from lib.runs.study import read_plan

COLUMNS = ["arm", "corruption", "measure", "strength", "setting", "unit", "value", "low", "high"]
COLUMNS += ["difference", "difference_low", "difference_high", "p", "p_holm", "findings"]
COLUMNS += ["seeds", "folds", "patients", "images"]


@dataclass(frozen=True)
class Robustness:
    """The arms of a study under corruption, all numbers means over findings.

    table: a row per arm, corruption and measure, columns COLUMNS: measure is auroc (at a strength
    and its setting; of corruption none the clean films), area (`curves`) or loss (clean AUROC less
    area), with 95 % intervals over patients and trainings; difference is from the reference. p and
    p_holm are of areas alone: that over all corruptions is corrected over arms, those of single
    corruptions together, over arms and corruptions. changes: the same differences with the columns
    of `comparison.Comparison`. refused: why an arm does not compare. remarks: what was left out.
    """

    reference: str
    table: pd.DataFrame
    changes: pd.DataFrame
    refused: dict[str, str]
    remarks: tuple[str, ...]


def compare_robustness(folder: Path) -> Robustness:
    """The arms of the study in `folder` whose runs have answers (`cxr robustness`).

    Without any the table is empty. Raises RunError as `read_runs`, or where answers are damaged.
    """
    arms, missing = _read(folder)
    plan = read_plan(folder)["runs"].values()
    reference = next(run["arm"] for run in plan if run["reference"])
    none = pd.DataFrame(columns=COLUMNS)
    remarks = [
        f"{arm}: {len(names)} of its runs not answered under corruption yet ({names[0]}"
        f"{', ...' if len(names) > 1 else ''})."
        for arm, names in missing.items()
    ]
    if not arms:
        return Robustness(reference, none, pd.DataFrame(), {}, tuple(remarks))
    seeds, refused, left = runs_by_seed(arms)
    if not seeds:
        return Robustness(reference, none, pd.DataFrame(), refused, (*remarks, *left))
    return _compared(seeds, reference, refused, (*remarks, *left))


def _read(folder: Path) -> tuple[dict[str, list[RobustRun]], dict[str, list[str]]]:
    """arm -> its complete runs that have answers; arm -> the names of those that have none."""
    arms: dict[str, list[RobustRun]] = {}
    missing: dict[str, list[str]] = {}
    for arm, runs in read_arms(folder).items():
        for run in runs:
            answers = read_answers(folder / run.run, run)
            if answers is None:
                missing.setdefault(arm, []).append(run.run)
            else:
                arms.setdefault(arm, []).append(robust(run, answers))
    return arms, missing


def _compared(
    seeds: Mapping[str, Sequence[Scored]],
    reference: str,
    refused: dict[str, str],
    remarks: tuple[str, ...],
) -> Robustness:
    resample_all([run for runs in seeds.values() for run in runs])
    first = [seeds[reference]] if reference in seeds else []
    noise = training_noise([*first, *(runs for arm, runs in seeds.items() if arm != reference)])
    scores, changes, different = against(seeds, reference, noise)
    scores = scores[(scores["finding"] == MACRO) & ~scores["metric"].isin(LOSSES)]
    losses = [_losses(runs, noise).assign(arm=arm) for arm, runs in seeds.items()]
    levels = pd.concat([scores, *losses], ignore_index=True)
    levels["findings"] = levels["arm"].map(
        {arm: int(runs[0].counted.sum()) for arm, runs in seeds.items()}
    )
    if len(changes):
        changes = _tested(changes[changes["finding"] == MACRO])
    table = _table(levels, changes, list(seeds))
    return Robustness(reference, table, changes, refused | different, remarks)


def _losses(runs: Sequence[Scored], noise: Noise) -> pd.DataFrame:
    """What corruption costs an arm: differences of scores of the same trainings."""
    rows = [contrast([(1, list(runs))], noise, metric) for metric in LOSSES]
    table = pd.DataFrame(rows).rename(columns={"difference": "value"})
    return table.assign(seeds=len(runs))


def _tested(changes: pd.DataFrame) -> pd.DataFrame:
    """Macro differences with p of areas alone, and p_holm: over all corruptions one family, single
    corruptions another."""
    changes = changes.assign(
        secondary=~changes["metric"].isin(AREAS),
        family=np.where(changes["metric"] == AREA, "all", "single"),
    )
    changes.loc[changes["secondary"], "p"] = np.nan
    return corrected(changes, ["family"]).drop(columns="family")


def _table(levels: pd.DataFrame, changes: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """COLUMNS, in the order of the arms and of METRICS."""
    ends = {"low": "difference_low", "high": "difference_high"}
    columns = ["arm", "metric", "difference", *ends.values(), "p", "p_holm"]
    levels = levels.drop(columns=["p"], errors="ignore")
    if changes.empty:
        levels = levels.assign(**dict.fromkeys(columns[2:], np.nan))
    else:
        levels = levels.merge(
            changes.rename(columns=ends)[columns], on=["arm", "metric"], how="left"
        )
    table = levels.merge(METRICS, on="metric")
    order = table["metric"].map({name: i for i, name in enumerate(METRICS["metric"])})
    places = table["arm"].map({arm: i for i, arm in enumerate(arms)})
    table = table.assign(arms=places, order=order).sort_values(["arms", "order"])
    return table[COLUMNS].reset_index(drop=True)
