"""In: a study whose arms repeat on shares of the training patients. Out: what the reference gains
over each other family of arms at every share, and whether that gain changes with the share."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.comparison.arms import Scored, contrast, training_noise
from lib.comparison.verdicts import read_arms, runs_by_seed
from lib.metrics.scores import MACRO
from lib.runs.study import read_plan

GAINS = ["other", "train_fraction", "gain", "low", "high"]
GAINS += ["change", "change_low", "change_high", "seeds", "other_seeds", "patients"]
Shares = dict[float, Sequence[Scored]]


def stage_gains(folder: Path, metric: str = "auroc") -> pd.DataFrame:
    """The macro score of the reference less that of another arm, at each share of the training
    patients that both were trained on: one row per other arm and share, the smallest first.

    An arm whose one change is `train_fraction` is the arm that it changes, at that share. Columns
    GAINS: gain with its 95 % interval, paired over patients; change, the gain at this share less
    that at the share 1 (NaN there); how many seeds. Intervals are not corrected for their number.
    Without such arms the table is empty. Raises RunError and ComparisonError as `compare_study`.
    """
    plan = read_plan(folder)
    families = _families(plan, runs_by_seed(read_arms(folder))[0])
    ours = families.pop(plan["reference"], {})
    if not (ours and families):
        return pd.DataFrame(columns=GAINS)
    noise = training_noise(
        [runs for family in (ours, *families.values()) for runs in family.values()]
    )
    rows = [
        {"other": other, "train_fraction": share, **_gain(ours, theirs, share, noise, metric)}
        for other, theirs in families.items()
        for share in sorted(set(ours) & set(theirs))
        if len(set(ours) & set(theirs)) > 1 and 1.0 in ours and 1.0 in theirs
    ]
    return pd.DataFrame(rows, columns=GAINS)


def gain_sentences(table: pd.DataFrame, reference: str) -> list[str]:
    """One sentence per row of `stage_gains`."""
    return [_sentence(row, reference) for row in table.itertuples()]


def _families(plan: dict[str, Any], arms: Mapping[str, Sequence[Scored]]) -> dict[str, Shares]:
    """arm -> {share of the training patients: runs}, of arms with more than one share."""
    families: dict[str, Shares] = {}
    for run in plan["runs"].values():
        shares = re.fullmatch(r"train_fraction=([\d.e-]+)", run["what"] or "")
        if run["arm"] in arms and not run["prerequisite"] and shares:
            families.setdefault(run["changes"], {})[float(shares[1])] = arms[run["arm"]]
    return {arm: {**family, 1.0: arms[arm]} for arm, family in families.items() if arm in arms}


def _gain(ours: Shares, theirs: Shares, share: float, noise: Any, metric: str) -> dict[str, Any]:
    here = [(1, list(ours[share])), (-1, list(theirs[share]))]
    gain = contrast(here, noise, metric)
    row = {"gain": gain["difference"], "low": gain["low"], "high": gain["high"]}
    row |= {"seeds": len(ours[share]), "other_seeds": len(theirs[share])}
    row |= {"patients": gain["patients"], "change": np.nan}
    if share == 1.0:
        return row
    change = contrast([*here, (-1, list(ours[1.0])), (1, list(theirs[1.0]))], noise, metric)
    ends = {"change_low": change["low"], "change_high": change["high"]}
    return row | {"change": change["difference"], **ends}


def _sentence(row: Any, reference: str) -> str:
    text = (
        f"With {100 * row.train_fraction:g} % of the training patients {reference} has "
        f"{row.gain:+.3f} ({row.low:+.3f} to {row.high:+.3f}) {MACRO} AUROC over {row.other}"
    )
    if np.isnan(row.change):
        return f"{text}."
    ends = (row.change_low, row.change_high)
    verdict = "may be chance"
    if ends[0] > 0 or ends[1] < 0:
        verdict = (
            "a larger gain with less data" if row.change > 0 else "a smaller gain with less data"
        )
    change = f"{row.change:+.3f} ({ends[0]:+.3f} to {ends[1]:+.3f})"
    return f"{text}; the gain is {change} against that with all of them: {verdict}."
