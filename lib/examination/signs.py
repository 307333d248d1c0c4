"""In: a model's answers to chests with and without signs. Out: by finding, how they follow the
sign, and its dose."""

from typing import Any

import numpy as np
import pandas as pd

from lib.comparison.significance import holm
from lib.examination.answers import Answers
from lib.examination.chests import (
    CONTRASTS,
    STRENGTH,
    STRENGTHS,
    FilmKey,
    contrast_name,
    strength_name,
)
from lib.examination.intervals import mean_interval, named, p_mean, share_interval
from lib.metrics.bootstrap import ALPHA

LADDERS = {
    "contrast": [(0.0, "absent"), *((c, contrast_name(c)) for c in CONTRASTS), (1.0, "")],
    "strength": sorted(
        [(0.0, "absent"), *((s, strength_name(s)) for s in STRENGTHS), (STRENGTH, "")]
    ),
}
"""The doses of a sign, rising, and the change of the film that has each: the same size at more and
more contrast, and larger and plainer."""


def sign_table(answers: Answers, drawn: tuple[str, ...]) -> pd.DataFrame:
    """One row per finding of the model: what its sign changes, over N chests.

    Columns: finding; drawn (whether phantoms show it; all else is NaN without); chests; prob and
    logit without and with the sign (means); prob_change and logit_change with _low and _high
    (Student, 95 %); spread: the deviation of the logit between plain films of different chests; p
    and p_holm (Student's test of the logit's change, corrected over findings); reacts
    (p_holm < 0.05, and it rises); contrast_rises and strength_rises with _low and _high: the share
    of chests whose logit rises at every step of that ladder (Wilson, 95 %).
    """
    rows = [_sign_row(answers, name, name in drawn) for name in answers.findings]
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p"])
    table["reacts"] = (table["p_holm"] < ALPHA) & (table["logit_change"] > 0)
    return table


def _sign_row(answers: Answers, finding: str, drawn: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"finding": finding, "drawn": drawn, "chests": len(answers.logits)}
    if not drawn:
        return row | {"chests": 0, "logit_change": np.nan, "p": np.nan}
    plain, shown = FilmKey("", ""), FilmKey(finding, "")
    for values, name in (("probs", "prob"), ("logits", "logit")):
        without, with_sign = (answers.of(finding, key, values) for key in (plain, shown))
        row |= {f"{name}_without": without.mean(), f"{name}_with": with_sign.mean()}
        row |= named(f"{name}_change", mean_interval(with_sign - without))
    row["spread"] = float(answers.of(finding, plain).std(ddof=1))
    row["p"] = p_mean(answers.of(finding, shown) - answers.of(finding, plain))
    for ladder, rungs in LADDERS.items():
        climbs = np.stack([answers.of(finding, rung(finding, change)) for _, change in rungs])
        row |= named(f"{ladder}_rises", share_interval((np.diff(climbs, axis=0) > 0).all(axis=0)))
    return row


def dose_table(answers: Answers, drawn: tuple[str, ...]) -> pd.DataFrame:
    """Mean probabilities and changes of the logit at each dose: a row per finding, ladder and dose.

    Columns: finding, ladder (contrast or strength), dose, chests, prob with _low and _high (over
    chests), prob_change and logit_change from the chest without the sign, with _low and _high
    (Student, 95 %).
    """
    rows = []
    for finding in drawn:
        for ladder, rungs in LADDERS.items():
            for dose, change in rungs:
                key, plain = rung(finding, change), FilmKey("", "")
                row = {"finding": finding, "ladder": ladder, "dose": dose}
                row["chests"] = len(answers.logits)
                row |= named("prob", mean_interval(answers.of(finding, key, "probs")))
                for values, name in (("probs", "prob"), ("logits", "logit")):
                    gain = answers.of(finding, key, values) - answers.of(finding, plain, values)
                    row |= named(f"{name}_change", mean_interval(gain))
                rows.append(row)
    return pd.DataFrame(rows)


def rung(finding: str, change: str) -> FilmKey:
    """The film of one step of a ladder of `LADDERS`."""
    return FilmKey("", "") if change == "absent" else FilmKey(finding, change)


def chance_of_rising(ladder: str) -> float:
    """How often equally likely orders of the steps of a ladder rise all the way: 1 / steps!."""
    return float(1 / np.prod(np.arange(1, len(LADDERS[ladder]) + 1)))
