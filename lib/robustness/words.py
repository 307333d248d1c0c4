"""In: a `Robustness`. Out: its sentences, and its table as text or Markdown."""

import numpy as np
import pandas as pd

from lib.comparison.words import sentence
from lib.metrics.bootstrap import ALPHA
from lib.robustness.compare import Robustness
from lib.robustness.corruptions import CORRUPTIONS, STEPS
from lib.robustness.curves import ALL, AREA, AREAS, CLEAN, LOSS

NAMES = {AREA: "AUROC under corruption"}


def robustness_sentences(found: Robustness) -> list[str]:
    """What the numbers are, what corruption costs each arm, then a verdict per arm against the
    reference, with what is there on clean films already; and what was left out."""
    table = found.table
    if table.empty:
        return ["No run has answers under corruption yet: `cxr robustness STUDY` makes them."]
    text = [
        f"Under corruption: the mean over {len(CORRUPTIONS)} corruptions of the area under AUROC at the "
        f"strengths 0 to {STEPS}, equally spaced; 0.5 is chance. Intervals are 95 %, over patients and "
        "trainings."
    ]
    arms = list(dict.fromkeys(table["arm"]))
    text += [_cost(table[table["arm"] == arm]) for arm in arms]
    for arm in arms:
        rows = found.changes[found.changes["arm"] == arm] if len(found.changes) else found.changes
        text += _verdicts(rows.set_index("metric"), found.reference) if len(rows) else []
    if found.reference not in arms:
        text.append(
            f"The reference {found.reference} has no answers under corruption, so nothing compares."
        )
    text += [f"{arm} is not compared: {why}." for arm, why in found.refused.items()]
    return [*text, *found.remarks]


def robustness_text(table: pd.DataFrame) -> str:
    """One line per arm and corruption, for a terminal: AUROC at each strength, area and loss with
    intervals."""
    rows = []
    for arm, whole in table.groupby("arm", sort=False):
        clean = _row(whole, "none", "auroc")
        for name in (*CORRUPTIONS, ALL):
            mine = whole[whole["corruption"] == name]
            by_step = mine[mine["measure"] == "auroc"].set_index("strength")["value"]
            row = {"arm": arm, "corruption": name, "clean": f"{clean['value']:.3f}"}
            row |= {str(step): _number(by_step.get(step)) for step in range(1, STEPS + 1)}
            for measure in ("area", "loss"):
                row[f"{measure} (95 %)"] = _interval(_row(mine, name, measure))
            rows.append(row)
    return pd.DataFrame(rows).to_string(index=False) if rows else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(row: pd.Series) -> str:
    if np.isnan(row["low"]):
        return _number(row["value"])
    return f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def _row(mine: pd.DataFrame, corruption: str, measure: str) -> pd.Series:
    """The first such row of one arm's table."""
    return mine[(mine["corruption"] == corruption) & (mine["measure"] == measure)].iloc[0]


def _cost(mine: pd.DataFrame) -> str:
    """What corruption costs one arm, and which costs most and least."""
    clean, area, loss = (
        _row(mine, *key) for key in (("none", "auroc"), (ALL, "area"), (ALL, "loss"))
    )
    single = mine[(mine["measure"] == "loss") & (mine["corruption"] != ALL)]
    single = single.set_index("corruption")["value"]
    if single.isna().any():
        return f"{mine['arm'].iloc[0]}: a class is missing, so that there is no AUROC."
    return (
        f"{mine['arm'].iloc[0]}: macro AUROC {_interval(clean)} on clean films, {_interval(area)} under "
        f"corruption, which costs {_interval(loss)}; most {single.idxmax()} "
        f"({single.max():.3f}), least {single.idxmin()} ({single.min():.3f})."
    )


def _verdicts(rows: pd.DataFrame, reference: str) -> list[str]:
    """The verdict of one arm over all corruptions with what is there on clean films already, and
    which single corruptions differ by more than chance."""
    arm, clean, loss = rows["arm"].iloc[0], rows.loc[CLEAN], rows.loc[LOSS]
    text = (
        f"{sentence(_named(rows, AREA), reference, NAMES)} On clean films the difference is "
        f"{_signed(clean)}; what corruption costs differs by {_signed(loss)}."
    )
    if clean["high"] < 0 and loss["difference"] < 0:
        text += f" That {arm} loses less is no merit: it has less to lose."
    single = rows.loc[[metric for metric in AREAS if metric != AREA]]
    apart = single[single["p_holm"] < ALPHA]
    if apart.empty:
        return [text, f"Under no single corruption can {arm} and {reference} be told apart."]
    each = ", ".join(
        f"{metric.partition(':')[0]} {_signed(row)}" for metric, row in apart.iterrows()
    )
    others = len(single) - len(apart)
    return [
        text,
        f"Single corruptions, corrected over arms and corruptions: {arm} differs from {reference} "
        f"under {each}{f'; under the other {others} they cannot be told apart' if others else ''}.",
    ]


def _named(rows: pd.DataFrame, metric: str) -> pd.Series:
    """The row of a metric, which is its index, with its name."""
    return pd.Series({**rows.loc[metric], "metric": metric})


def _signed(row: pd.Series) -> str:
    return f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
