"""In: the numbers of a comparison. Out: its words: sentences, and tables in Markdown or text."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lib.metrics.bootstrap import ALPHA
from lib.metrics.scores import MACRO

if TYPE_CHECKING:
    from lib.comparison.verdicts import Comparison

EQUIVALENT, NOT_WORSE = "equivalent", "not worse"
NAMES = {"auroc": "AUROC", "average_precision": "average precision", "f1": "F1"}


def tested_on(row: pd.Series) -> str:
    """Which patients the scores of `row`, of an arm, are on, and whether folds or one list."""
    patients = count_text(row["patients"], "patient")
    if row["folds"]:
        return (
            f"Scores are means over {row['folds']} folds: each of the {patients} is tested once, by a "
            "model that did not train on them."
        )
    images = count_text(row["images"], "image")
    return f"Scores are on one test list, the same for every arm: {images} of {patients}."


def sentence(row: pd.Series, reference: str, names: Mapping[str, str] = NAMES) -> str:
    """What one row of `changes` says: better, worse, equivalent or not worse within a margin, or that
    the data cannot tell, with the numbers for it. names: of the metrics."""
    name = names[row["metric"]]
    what = f"macro {name}" if row["findings"] > 1 else f"{name} of one shared finding"
    seeds = count_text(row["seeds"], "seed")
    if row["seeds"] != row["reference_seeds"]:
        seeds = f"{row['seeds']} against {count_text(row['reference_seeds'], 'seed')}"
    if row["folds"]:
        seeds += f" in {row['folds']} folds"
    counts = f"{seeds}, {count_text(row['patients'], 'patient')}"
    measured = f"{what} differs by {row['difference']:+.3f} ({row['low']:.3f} to {row['high']:.3f}"
    if row["one_training"] and np.isfinite(row["difference"]):
        return (
            f"{row['arm']} and {reference} have one training each: {measured} over "
            f"{count_text(row['patients'], 'patient')}), which may be chance in training. "
            "This is no verdict: run another seed."
        )
    if row["secondary"] and np.isfinite(row["difference"]):
        return f"Secondary, no verdict: {row['arm']} against {reference}, {measured}, {counts})."
    if np.isnan(row["p_holm"]):
        return f"{row['arm']} and {reference} cannot be compared by {what}: a class is missing ({counts})."
    numbers = (
        f"({row['low']:.3f} to {row['high']:.3f}, {p_text(row['p_holm'])} corrected, {counts})"
    )
    claim = margin_claim(row)
    if row["p_holm"] >= ALPHA:
        differs = f"{what} differs by {row['difference']:+.3f}"
        if claim == EQUIVALENT:
            return (
                f"{row['arm']} and {reference} are equivalent within the margin of {row['margin']:g}: "
                f"{differs} ({row['low']:.3f} to {row['high']:.3f}, {p_text(row['p_equivalent'])} "
                f"corrected, {counts})."
            )
        if claim == NOT_WORSE:
            return (
                f"{row['arm']} is not worse than {reference} by more than the margin of "
                f"{row['margin']:g}: {differs} ({row['low']:.3f} to {row['high']:.3f}, "
                f"{p_text(row['p_not_worse'])} corrected, {counts}); whether it is better, or "
                "equivalent, cannot be told."
            )
        return (
            f"{row['arm']} and {reference} cannot be told apart: {differs} {numbers}; {_open(row)}."
        )
    size, ends = abs(row["difference"]), sorted([abs(row["low"]), abs(row["high"])])
    numbers = f"({ends[0]:.3f} to {ends[1]:.3f}, {p_text(row['p_holm'])} corrected, {counts})"
    verdict = "better" if row["difference"] > 0 else "worse"
    text = f"{row['arm']} is {verdict} than {reference} by {size:.3f} {what} {numbers}"
    if claim == EQUIVALENT:
        text += (
            f"; the difference is within the margin of {row['margin']:g} "
            f"({p_text(row['p_equivalent'])} corrected)"
        )
    elif claim == NOT_WORSE and verdict == "worse":
        text += f"; by less than the margin of {row['margin']:g} ({p_text(row['p_not_worse'])} corrected)"
    return text + "."


def margin_claim(row: pd.Series) -> str:
    """What the tests against the margin show: EQUIVALENT, else NOT_WORSE, else nothing."""
    if row.get("p_equivalent", np.nan) < ALPHA:
        return EQUIVALENT
    return NOT_WORSE if row.get("p_not_worse", np.nan) < ALPHA else ""


def _open(row: pd.Series) -> str:
    """What stays possible where there is no verdict."""
    if row["detectable"] >= 1:
        return "with so few positive films no difference could show"
    found = (
        f"only differences over about {row['detectable']:.3f} would show, and one beyond "
        f"{max(abs(row['low']), abs(row['high'])):.3f} either way is excluded at 95 %"
    )
    if np.isfinite(row.get("demonstrable", np.nan)):
        found += (
            f"; equivalence would show for margins over about {row['demonstrable']:.3f}, and the "
            f"margin is {row['margin']:g}"
        )
    return found


def p_text(p: float) -> str:
    """A p-value as papers print it: 'p < 0.001', else with three decimals, from 0.1 on with two."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


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
        verdict = "not compared" if arm in verdicts.refused else ""
        lines.append([*row, _verdict(changes.loc[arm]) if arm in changes.index else verdict])
        lines += _ensemble_row(verdicts, arm)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _ensemble_row(verdicts: "Comparison", arm: str) -> list[list[str]]:
    """The row of the arm's ensemble in the summary, where it has one."""
    if verdicts.ensembles.empty:
        return []
    rows = verdicts.ensembles[verdicts.ensembles["finding"] == MACRO]
    rows = rows[rows["arm"] == arm].set_index("metric")
    if rows.empty:
        return []
    name = f"{arm}, ensemble of {rows['members'].iloc[0]}"
    shown = [_interval(rows.loc[metric]) for metric in NAMES]
    return [[name, "mean of calibrated probabilities", *shown, "", ""]]


def scores_text(table: pd.DataFrame) -> str:
    """The scores of predictions alone (`metrics.score_predictions`), for a terminal."""
    shown = pd.DataFrame({"finding": table["finding"]})
    for metric, name in NAMES.items():
        ends = table[[f"{metric}_low", f"{metric}_high"]].to_numpy(float)
        shown[f"{name} (95 %)"] = [
            "-"
            if np.isnan(value)
            else f"{value:.5f} ({low:.3f} to {high:.3f})"
            if np.isfinite(low)
            else f"{value:.5f} (too few positives)"
            for value, (low, high) in zip(table[metric], ends, strict=True)
        ]
    shown["accuracy"] = table["accuracy"].map("{:.3f}".format)
    shown["all-negative"] = table["accuracy_all_negative"].map("{:.3f}".format)
    shown["positives"] = table["positives"].map("{:,}".format)
    shown["of images"] = (table["positives"] + table["negatives"]).map("{:,}".format)
    left = table.loc[~table["in_macro"].astype(bool), "finding"]
    notes = ["all-negative: the accuracy of answering no to every image"]
    if len(left):
        notes.append(f"macro means are without {', '.join(left)}: too few patients of a class")
    return "\n".join([shown.replace("nan", "-").to_string(index=False), *notes])


def _interval(row: pd.Series) -> str:
    if np.isnan(row["value"]):
        return "-"
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
    direction = "better" if row["difference"] > 0 else "worse"
    claim, p = margin_claim(row), row["p_holm"]
    if p < ALPHA:
        word = f"{direction}, within the margin" if claim == EQUIVALENT else direction
    elif claim:
        word, p = claim, row["p_equivalent" if claim == EQUIVALENT else "p_not_worse"]
        word += " by more than the margin" if claim == NOT_WORSE else " within the margin"
    else:
        word = "cannot tell"
    one = ", on one finding" if row["findings"] == 1 else ""
    numbers = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}), {p_text(p)}"
    return f"**{word}**{one}: {numbers}"


def verdict_text(verdicts: "Comparison") -> str:
    """The scores of the arms and one sentence per comparison, for a terminal."""
    macro = verdicts.scores[verdicts.scores["finding"] == MACRO]
    rows = []
    for arm, group in macro.groupby("arm", sort=False):
        row = {"arm": arm + " *" * (arm == verdicts.reference), "seeds": group["seeds"].iloc[0]}
        for one in group.itertuples():
            row[f"macro {NAMES[one.metric]} (95 %)"] = _interval(pd.Series(one._asdict()))
        rows.append(row)
        for cells in _ensemble_row(verdicts, str(arm)):
            scores = zip(list(row)[2:], cells[2:], strict=False)
            rows.append({"arm": cells[0], "seeds": row["seeds"], **dict(scores)})
    return "\n".join(
        [
            pd.DataFrame(rows).to_string(index=False),
            "* the reference",
            "",
            *verdicts.all_sentences(),
        ]
    )


def power_text(power: pd.DataFrame, patients: int, folds: int = 0) -> str:
    """The table of `power.power_table` on so many test patients, of all folds where there are any,
    with what it says."""
    if power.empty:
        return (
            "no arm compares with the reference yet, so the noise of a difference is not known: "
            "run more of the study"
        )
    return (
        f"{power.to_string(float_format='{:.3f}'.format)}\n"
        f"the smallest true difference that {patients:,} test patients"
        f"{f' in {folds} folds' if folds else ''} and so many seeds show with 80 % power "
        "(two-sided, 5 %, before any correction)"
    )


def equivalence_text(power: pd.DataFrame) -> str:
    """The table of `power.power_table` for margins, with what it says."""
    return (
        f"{power.to_string(float_format='{:.3f}'.format)}\n"
        "the smallest margin within which two arms that are truly equal show to be equivalent, with 80 % "
        "power (two one-sided tests of 5 %, before any correction)"
    )


def count_text(number: int, what: str) -> str:
    """ "1 patient", "2 patients", "1,196 patients"."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
