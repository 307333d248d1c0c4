"""In: a model's answers to films with one nuisance changed. Out: by finding and nuisance, how far
the logit moves, measured by what the sign does.

For chest i let n_i be the change of the finding's logit by the nuisance, and d_i its change by the
sign of STRENGTH on the plain film. The shortcut score is mean(n) / mean(d): 1 means that the
nuisance does as much as the sign, a negative one that it works against it.

A nuisance is caught where |mean(n)| is beyond LIMIT times two things at once: |mean(d)|, and the
deviation of the logit between plain films of different chests. The second keeps a model that
answers to nothing from being accused of a trifle. Each is a Student's test on the differences
|n_i| - LIMIT |d_i| (with the signs of the means), one for each direction, doubled; both must hold,
so their larger p-value counts (intersection-union test, Berger 1982), corrected over all nuisances,
findings and both states of the chest by Holm.
"""

from typing import Any

import numpy as np
import pandas as pd

from lib.comparison.significance import holm
from lib.examination.answers import Answers
from lib.examination.chests import FilmKey
from lib.examination.intervals import mean_interval, named, p_above, ratio_interval
from lib.examination.nuisances import NUISANCES
from lib.metrics.bootstrap import ALPHA

LIMIT = 0.5
STATES = ("without", "with")


def shortcut_table(answers: Answers, drawn: tuple[str, ...]) -> pd.DataFrame:
    """One row per finding, nuisance and state of the chest, without and with the finding's sign.

    Columns: finding, kind, nuisance, sign (the state), chests; logit_change and prob_change with
    _low and _high (Student, 95 %); score with score_low and score_high (Fieller, 95 %; NaN where
    the sign may change nothing); limit: the change of the logit beyond which a nuisance is caught;
    p, p_holm, and caught (p_holm < 0.05).
    """
    rows = [
        _row(answers, finding, number, state)
        for finding in drawn
        for number in range(len(NUISANCES))
        for state in STATES
    ]
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p"])
    table["caught"] = table["p_holm"] < ALPHA
    return table


def _row(answers: Answers, finding: str, number: int, state: str) -> dict[str, Any]:
    nuisance, shown = NUISANCES[number], finding if state == "with" else ""
    before, after = FilmKey(shown, ""), FilmKey(shown, nuisance.name)
    plain = answers.of(finding, FilmKey("", ""))
    by_sign = answers.of(finding, FilmKey(finding, "")) - plain
    moved = answers.of(finding, after) - answers.of(finding, before)
    in_probs = answers.of(finding, after, "probs") - answers.of(finding, before, "probs")
    spread = float(plain.std(ddof=1))
    row: dict[str, Any] = {
        "finding": finding,
        "kind": nuisance.kind,
        "nuisance": nuisance.name,
        "sign": state,
    }
    row["chests"] = len(plain)
    row |= named("logit_change", mean_interval(moved))
    row |= named("prob_change", mean_interval(in_probs))
    row |= named("score", ratio_interval(moved, by_sign))
    row["limit"] = LIMIT * max(abs(float(by_sign.mean())), spread)
    return row | {"p": p_beyond(moved, by_sign, spread)}


def p_beyond(moved: np.ndarray, by_sign: np.ndarray, spread: float) -> float:
    """The p-value of |mean(moved)| <= LIMIT max(|mean(by_sign)|, spread): moved, by_sign (N,)."""
    direction = 1.0 if moved.mean() >= 0 else -1.0
    margin = LIMIT * (by_sign if by_sign.mean() >= 0 else -by_sign)
    larger = max(p_above(direction * moved - margin), p_above(direction * moved - LIMIT * spread))
    return min(1.0, 2 * larger)
