"""In: differences with their standard errors, and a margin below which a difference does not matter.
Out: p-values of "equivalent" and "not worse", corrected together with those of the differences.

An arm is equivalent within the margin where two one-sided tests reject that it is worse by the margin
or more, and that it is better by as much (Schuirmann 1987); the first of them alone says that it is
not worse by more than the margin.

The correction. For one arm, "no difference" and "a difference of at least the margin" cannot both be
true, and who rejects the second in both directions has rejected it in one. So at most one of an arm's
claims can be false in a way that matters, and none needs a correction for the others of its arm
(Goeman, Solari and Stijnen 2010). Over arms, the smallest p-value goes first, and each is multiplied by
the number of arms of which a hypothesis still stands (Shaffer 1986; Goeman and Solari 2010, "The
sequential rejection principle of familywise error control"). With no margin that is Holm's procedure.
"""

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from lib.metrics.bootstrap import ALPHA, POWER

CLAIMS = ("p", "p_equivalent", "p_not_worse")


def margin_tests(
    difference: np.ndarray, error: np.ndarray, freedom: np.ndarray, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """p-values, (N,) each, that an arm is equivalent within `margin` > 0, and that it is not worse by
    more than it.

    difference, error, freedom: (N,) estimates, their standard errors, and Student's degrees of freedom.
    NaN stays NaN. Without any error a difference inside the margin has a p-value of 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        not_worse = stdtr(freedom, -(difference + margin) / error)
        not_better = stdtr(freedom, -(margin - difference) / error)
    return np.fmax(not_worse, not_better) + 0 * (not_worse + not_better), not_worse


def correct_claims(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with a row per arm and the columns CLAIMS -> the corrected p-values, same shape.

    A row without a `p` is not tested and is not counted.
    """
    p = table[list(CLAIMS)].to_numpy(float)
    tested = ~np.isnan(p).any(axis=1)
    corrected = np.full(p.shape, np.nan)
    left = {arm: len(CLAIMS) for arm in np.flatnonzero(tested)}  # hypotheses that still stand
    largest = 0.0
    for arm, claim in sorted(
        ((arm, claim) for arm in left for claim in range(len(CLAIMS))), key=lambda one: p[one]
    ):
        standing = sum(count > 0 for count in left.values())
        largest = max(largest, min(p[arm, claim] * standing, 1.0))
        corrected[arm, claim] = largest
        left[arm] -= 1
    return pd.DataFrame(corrected, index=table.index, columns=list(CLAIMS))


def demonstrable_margin(error: float, freedom: float, alpha: float = ALPHA) -> float:
    """The smallest margin within which two arms that are truly equal are shown to be equivalent with
    80 % power: (t of 1 - alpha, plus t of 0.90) standard errors (Phillips 1990).

    0.90 and not 0.80, since either of two one-sided tests can fail.
    """
    steps = stdtrit(freedom, 1 - alpha) + stdtrit(freedom, (1 + POWER) / 2)
    return float(steps * error)
