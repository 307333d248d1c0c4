"""In: a study with arms in 8 bits. Out: what 8 bits change in each, against the arm it was made
from."""

from pathlib import Path

import pandas as pd

from lib.comparison.arms import (
    RunPredictions,
    common_findings,
    differences,
    resample_all,
    training_noise,
)
from lib.comparison.pairs import paired
from lib.comparison.verdicts import corrected, read_arms, runs_by_seed, with_claims, with_margin
from lib.comparison.words import sentence
from lib.metrics.scores import MACRO
from lib.runs.study import read_plan


def quantized_changes(folder: Path) -> pd.DataFrame:
    """The differences in the primary metric, macro, of every arm in 8 bits from the arm that it was
    made from, seed by seed (`lib.comparison.pairs`): one row per arm.

    Columns as `Comparison.changes`, and `reference`: that arm. The spread of such differences over
    seeds is pooled over the arms. With the study's margin the row says whether both are equivalent
    within it. p-values are corrected over these rows. An arm of which no seed is whole, or whose
    seeds are not those of the other, has no row; empty without such arms.
    """
    plan, arms = read_plan(folder), read_arms(folder)
    primary = plan.get("primary", "auroc")
    margin = (plan.get("margin") or {}).get(primary)
    of = {arm: source for arm, runs in arms.items() if (source := _made_from(runs, arms))}
    seeds, _, _ = runs_by_seed({arm: arms[arm] for pair in of.items() for arm in pair})
    resample_all([run for runs in seeds.values() for run in runs])
    both = {arm: source for arm, source in of.items() if {arm, source} <= set(seeds)}
    pairs = {
        arm: found for arm, source in both.items() if (found := paired(seeds[arm], seeds[source]))
    }
    pooled = training_noise(list(pairs.values())) if pairs else None
    rows = []
    for arm, source in of.items():
        if arm in pairs:
            table = differences(seeds[arm], seeds[source], pair_noise=pooled)
            findings = len(common_findings([*seeds[arm], *seeds[source]]))
            rows.append(table.assign(arm=arm, reference=source, findings=findings))
    if not rows:
        return pd.DataFrame(columns=["arm", "reference"])
    table = pd.concat(rows, ignore_index=True)
    table = table[(table["metric"] == primary) & (table["finding"] == MACRO)]
    table = table.assign(secondary=False).reset_index(drop=True)
    if margin:
        table = with_margin(table, margin)
    table = corrected(table, ["metric", "finding"])
    return with_claims(table) if margin else table


def quantized_sentences(changes: pd.DataFrame) -> list[str]:
    """One sentence per row of `quantized_changes`."""
    return [sentence(row, row["reference"]) for _, row in changes.iterrows()]


def _made_from(runs: list[RunPredictions], arms: dict[str, list[RunPredictions]]) -> str | None:
    """The arm that holds all runs from which these were made; None where there is none."""
    sources = {run.made_from for run in runs}
    return next(
        (arm for arm, others in arms.items() if sources <= {other.run for other in others}), None
    )
