"""In: what a study showed at each look, with more and more seeds. Out: its p-values, which count the looks,
and which arms are decided.

`looks.json` in the study's folder holds the most seeds that were planned and, per look, the macro
difference of each arm that was open, with its errors. An arm that was decided gets no more seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtr

from lib.comparison.margins import margin_tests
from lib.comparison.sequential import information, looked_p
from lib.files import read_json, write_json
from lib.metrics.bootstrap import ALPHA
from lib.metrics.scores import MACRO

if TYPE_CHECKING:
    from lib.comparison.verdicts import Comparison

FILE = "looks.json"
MEASURED = ("difference", "se_patients", "se_seeds", "df")
DECIDED, PATIENTS, SEEDS, OPEN = "decided", "patients", "seeds", "open"


@dataclass(frozen=True)
class Looks:
    """most: how many seeds were planned at most. seeds: at each look (K,). arms: name -> what was
    measured at its looks, MEASURED, one dict per look, the first ones of `seeds`."""

    most: int
    seeds: tuple[int, ...] = ()
    arms: dict[str, list[dict[str, float]]] = field(default_factory=dict)


def read_looks(folder: Path) -> Looks | None:
    """The looks of the study in `folder`; None where seeds were not added until decided."""
    path = folder / FILE
    if not path.exists():
        return None
    kept = read_json(path)
    arms = {
        arm: [
            {name: np.inf if one[name] is None else one[name] for name in MEASURED} for one in rows
        ]
        for arm, rows in kept["arms"].items()
    }  # JSON has no infinite degrees of freedom
    return Looks(kept["most"], tuple(kept["seeds"]), arms)


def add_look(folder: Path, looks: Looks, seeds: int, changes: pd.DataFrame) -> Looks:
    """`looks` with one more at so many seeds, written to `folder`.

    changes: the macro rows of the primary metric of the arms that are still open. An arm that missed
    an earlier look is not added: its p-value would not count that look.
    """
    arms = {arm: list(rows) for arm, rows in looks.arms.items()}
    for row in changes.to_dict("records"):
        if len(arms.get(row["arm"], ())) == len(looks.seeds):
            arms.setdefault(row["arm"], []).append({name: float(row[name]) for name in MEASURED})
    made = Looks(looks.most, (*looks.seeds, seeds), arms)
    write_json(folder / FILE, {"most": made.most, "seeds": list(made.seeds), "arms": made.arms})
    return made


def count_looks(table: pd.DataFrame, looks: Looks) -> pd.DataFrame:
    """`table` of differences with p, and p_equivalent and p_not_worse where there is a margin, of the
    macro rows of the primary metric replaced by those of all looks of their arms."""
    table = table.copy()
    rows = table[(table["finding"] == MACRO) & ~table["secondary"].astype(bool)]
    for place, row in rows.iterrows():
        measured = looks.arms.get(row["arm"])
        if measured:
            values = looked_claims(measured, looks, row.get("margin", np.nan))
            for name, value in values.items():
                if name in table:
                    table.loc[place, name] = value
    return table


def looked_claims(
    measured: Sequence[dict[str, float]], looks: Looks, margin: float = np.nan
) -> dict[str, float]:
    """p, p_equivalent and p_not_worse of an arm over its looks, not corrected over arms."""
    difference, patients, seeds, df = (
        np.array([one[name] for one in measured]) for name in MEASURED
    )
    error, counts = np.hypot(patients, seeds), looks.seeds[: len(measured)]
    shares = information(patients[-1] ** 2, seeds[-1] ** 2, counts[-1], counts, looks.most)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = stdtr(df, -difference / error)
    two_sided = 2 * min(looked_p(above, shares), looked_p(1 - above, shares))
    found = {"p": min(two_sided, 1.0)}
    if np.isfinite(margin):
        not_better = margin_tests(-difference, error, df, margin)[1]
        not_worse = margin_tests(difference, error, df, margin)[1]
        found["p_not_worse"] = looked_p(not_worse, shares)
        found["p_equivalent"] = max(found["p_not_worse"], looked_p(not_better, shares))
    return found


def arm_state(row: pd.Series, seeds: int, most: int) -> str:
    """Whether an arm needs more seeds: DECIDED (different, or equivalent), PATIENTS (more seeds would not
    decide it), SEEDS (there are no more), or OPEN.

    row: of `Comparison.changes`, its p-values corrected. Patients are the limit where the difference,
    moved by two standard errors of what comes from seeds either way, would not show even if there
    were no such error.
    """
    if row["p_holm"] < ALPHA or row.get("p_equivalent", np.nan) < ALPHA:
        return DECIDED
    size, shift, error = abs(row["difference"]), 2 * row["se_seeds"], row["se_patients"]
    different = size + shift >= -ndtri(ALPHA / 2) * error
    equivalent = row.get("margin", -np.inf) - max(size - shift, 0.0) >= -ndtri(ALPHA) * error
    if not different and not equivalent:
        return PATIENTS
    return OPEN if seeds < most else SEEDS


def looks_text(looks: Looks) -> str:
    """What a reader has to know about p-values of several looks."""
    *first, last = map(str, looks.seeds)
    at = f"{', '.join(first)} and {last}" if first else last
    return (
        f"Seeds were added until verdicts were clear (looked at with {at} of at most {looks.most} seeds): the "
        "p-values of macro means count that; those of single findings, and all intervals, do not."
    )


def arm_states(verdicts: "Comparison", looks: Looks) -> dict[str, str]:
    """arm -> its state, of the arms that were part of the last look."""
    rows = verdicts.macro().set_index("arm")
    return {
        arm: arm_state(rows.loc[arm], looks.seeds[-1], looks.most)
        for arm, measured in looks.arms.items()
        if len(measured) == len(looks.seeds) and arm in rows.index
    }


def states_text(states: dict[str, str]) -> str:
    """One line per arm: whether it is decided, and if not, why there is no more to do."""
    why = {
        DECIDED: "decided",
        PATIENTS: "not decided; the test patients are the limit: more seeds would not show more",
        SEEDS: "not decided with all seeds",
        OPEN: "not decided yet: another seed",
    }
    return "\n".join(f"  {arm}: {why[state]}" for arm, state in states.items())
