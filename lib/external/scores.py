"""In: what a model answered for its own test set and for another one. Out: every score of both, with 95 %
intervals, and the drop from one to the other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib.comparison.arms import arm_scores
from lib.external.models import Answers
from lib.external.rates import CORRECTED, rate_table
from lib.metrics.bootstrap import INTERVAL_METRICS, LEAST
from lib.metrics.scores import MACRO, MIN_PATIENTS, enough_patients, positive_patients, some_or_all

METRICS = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "f1": "F1",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
    "accuracy_all_negative": "accuracy of all-negative",
    "ece": "calibration error before",
    "ece_calibrated": "calibration error after",
    "brier": "Brier score before",
    "brier_calibrated": "Brier score after",
    "prevalence": "prevalence",
}
"""In this order in tables; before and after the calibration that training fixed."""
SIDES = ("internal", "external")


def drop_interval(
    first: tuple[np.ndarray, ...],
    second: tuple[np.ndarray, ...],
    corrected: np.ndarray | bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of the difference of two scores of independent samples, each given as value,
    low and high (K,).

    The limits are recovered from the two intervals (MOVER; Zou and Donner 2008, "Construction of
    confidence limits about effect measures: a general approach"; for shares Newcombe 1998, method 10):
    d - sqrt((v1 - l1)^2 + (u2 - v2)^2) and d + sqrt((u1 - v1)^2 + (v2 - l2)^2). Where `corrected`, the
    intervals are around a value less its bias, and their middles take the values' place.
    """
    (one, low, high), (other, other_low, other_high) = (
        (np.where(corrected, (ends[1] + ends[2]) / 2, ends[0]), ends[1], ends[2])
        for ends in (first, second)
    )
    down = np.sqrt((one - low) ** 2 + (other_high - other) ** 2)
    up = np.sqrt((high - one) ** 2 + (other - other_low) ** 2)
    return one - other - down, one - other + up


def compare_sides(
    inside: Sequence[Answers], outside: Sequence[Answers], card: dict[str, Any]
) -> pd.DataFrame:
    """Every metric of METRICS for every finding that both sets have, then macro: internal and external
    value with _low and _high, drop with drop_low and drop_high, positives and positive_patients of both
    sides, reason (why a number or an interval is missing).

    inside, outside: one per training, of the same trainings. Without `inside` the internal scores are
    those of the card. The macro row is the mean over the findings with at least MIN_PATIENTS positive
    and negative patients in both sets; there is none of a single finding.
    """
    findings = outside[0].findings
    inside = [one.on(findings) for one in inside]
    sides = {"external": outside} | ({"internal": inside} if inside else {})
    enough = [enough_patients(runs[0].run.targets, runs[0].run.patients) for runs in sides.values()]
    by_finding = {row["finding"]: row for row in card.get("metrics", [])}
    if not inside:
        enough.append(
            np.array([bool(by_finding.get(name, {}).get("in_macro")) for name in findings])
        )
    counted = some_or_all(np.all(enough, axis=0))
    tables = {side: _scores(runs, counted) for side, runs in sides.items()}
    if not inside:
        tables["internal"] = card_scores(card, findings, counted)
    return _joined(tables, findings, counted)


def _scores(runs: Sequence[Answers], counted: np.ndarray) -> pd.DataFrame:
    """metric, finding, value, low, high, positives, positive_patients, negative_patients of one
    side."""
    findings = runs[0].findings
    whole = arm_scores([one.run for one in runs])
    kept = [name for name, keep in zip(findings, counted, strict=True) if keep]
    means = arm_scores([one.on(kept).run for one in runs])
    ranked = pd.concat([whole[whole["finding"] != MACRO], means[means["finding"] == MACRO]])
    table = pd.concat([ranked, rate_table(runs, counted)], ignore_index=True)
    targets, patients = runs[0].run.targets, runs[0].run.patients
    people = positive_patients(targets, patients)
    about = pd.DataFrame({"finding": findings, "positives": (targets == 1).sum(axis=0)})
    about = about.assign(positive_patients=people[0], negative_patients=people[1])
    columns = ["metric", "finding", "value", "low", "high"]
    return table[columns].merge(about, on="finding", how="left")


def card_scores(card: dict[str, Any], findings: Sequence[str], counted: np.ndarray) -> pd.DataFrame:
    """The test scores in a file's card, as `_scores`: intervals where the card has them, NaN
    elsewhere."""
    by_finding = {row["finding"]: row for row in card.get("metrics", [])}
    points = {
        row["finding"]: row for row in card.get("operating_points", []) if row.get("rule") == "f1"
    }
    rows = []
    for name in findings:
        one, point = by_finding.get(name, {}), points.get(name, {})
        one = one | {key: value for key, value in point.items() if key.startswith(("sens", "spec"))}
        if one.get("positives") is not None:
            one["prevalence"] = one["positives"] / max(one["positives"] + one["negatives"], 1)
        about = {
            "positives": one.get("positives"),
            "positive_patients": one.get("positive_patients"),
        }
        for metric in METRICS:
            ends = [one.get(metric), one.get(f"{metric}_low"), one.get(f"{metric}_high")]
            rows.append(
                {"metric": metric, "finding": name}
                | dict(zip(("value", "low", "high"), ends, strict=True))
                | about
            )
    table = pd.DataFrame(rows)
    numbers = [name for name in table if name not in ("metric", "finding")]
    table[numbers] = table[numbers].astype(float)
    kept = [name for name, keep in zip(findings, counted, strict=True) if keep]
    means = table[table["finding"].isin(kept)].groupby("metric", sort=False)["value"].mean()
    macro = pd.DataFrame({"metric": means.index, "finding": MACRO, "value": means.to_numpy()})
    same = {name for name, row in by_finding.items() if row.get("in_macro")} - {MACRO}
    if (
        same == set(kept) and MACRO in by_finding
    ):  # the card's own macro mean is over the same findings
        for end in ("low", "high"):
            macro[end] = [by_finding[MACRO].get(f"{metric}_{end}") for metric in macro["metric"]]
    return pd.concat([table, macro], ignore_index=True)


def _joined(
    tables: dict[str, pd.DataFrame], findings: Sequence[str], counted: np.ndarray
) -> pd.DataFrame:
    """Both sides in one row per metric and finding, with the drop."""
    columns = ["value", "low", "high", "positives", "positive_patients"]
    sides = []
    for side in SIDES:
        renamed = {name: f"{side}_{name}" if name != "value" else side for name in columns}
        table = tables[side].set_index(["metric", "finding"])[columns]
        sides.append(table.rename(columns=renamed).astype(float))
    names = [*findings, MACRO] if counted.sum() > 1 else list(findings)
    order = pd.MultiIndex.from_product([METRICS, names], names=["metric", "finding"])
    table = sides[0].join(sides[1]).reindex(order).reset_index()
    macro = table["finding"] == MACRO
    corrected = table["metric"].isin(CORRECTED) | (macro & (table["metric"] == "average_precision"))
    inside, outside = (
        tuple(table[f"{side}{end}"].to_numpy(float) for end in ("", "_low", "_high"))
        for side in SIDES
    )
    table["drop"] = table["internal"] - table["external"]
    table["drop_low"], table["drop_high"] = drop_interval(inside, outside, corrected.to_numpy())
    table["in_macro"] = macro | table["finding"].isin(np.array(findings)[counted])
    return table.assign(reason=[_reason(row, tables) for row in table.to_dict("records")])


def _reason(row: dict[str, Any], tables: dict[str, pd.DataFrame]) -> str:
    """Why a number or an interval of a row is missing; empty where none is."""
    texts = []
    for side in SIDES:
        if not np.isnan(row[f"{side}_low"]):
            continue
        if row["finding"] == MACRO or np.isnan(row[f"{side}_positive_patients"]):
            texts.append(f"{side}: the file's card has no interval")
            continue
        people = int(row[f"{side}_positive_patients"])
        least = LEAST.get(row["metric"], MIN_PATIENTS)
        if people < least and row["metric"] in (*INTERVAL_METRICS, "sensitivity"):
            texts.append(f"{side}: {people} patients have it, {least} are needed")
        elif np.isnan(row[side]) or "negative_patients" not in tables[side]:
            texts.append(f"{side}: not known")
        else:
            texts.append(f"{side}: too few patients without it, {least} are needed")
    return "; ".join(texts)
