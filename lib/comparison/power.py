"""In: a comparison. Out: the smallest true differences, and the smallest margins of equivalence, that
its test patients and seeds can show."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lib.comparison.margins import demonstrable_margin
from lib.comparison.significance import detectable, satterthwaite
from lib.comparison.words import NAMES

if TYPE_CHECKING:
    from lib.comparison.verdicts import Comparison


def power_table(
    verdicts: "Comparison", seeds: Sequence[int] = (1, 2, 3, 5, 10), *, equivalence: bool = False
) -> pd.DataFrame:
    """The smallest true difference in a macro metric that this test set finds with 80 % power, by
    number of seeds; with `equivalence` the smallest margin within which arms that are truly equal
    show to be equivalent.

    One row per metric: the median over the arms, with as many seeds for either arm. Patients are
    those of the test set, with folds of all folds: more seeds shrink only what comes from training,
    never what comes from few patients.
    """
    rows = {}
    for metric, name in NAMES.items():
        macro = verdicts.macro(metric).dropna(subset=["se_patients"])
        macro = macro[~macro["one_training"].astype(bool)]
        if macro.empty:
            continue
        single = macro["se_seeds"] ** 2 / (
            1 / macro["seeds"] + 1 / macro["reference_seeds"]
        )  # of one run
        patients = macro["se_patients"] ** 2
        share = macro["se_seeds"] ** 2 / (patients + macro["se_seeds"] ** 2)
        freedom = (macro["df"] * share**2).where(
            share > 0, 0
        )  # the degrees of freedom of the seeds' part
        rows[f"macro {name}"] = {
            f"{k} seed{'s' * (k > 1)}": _median(patients, single * 2 / k, freedom, equivalence)
            for k in seeds
        }
    return pd.DataFrame(rows).T


def _median(patients: pd.Series, spread: pd.Series, freedom: pd.Series, equivalence: bool) -> float:
    variances = zip(patients, spread, freedom, strict=True)
    return float(np.median([_smallest(*one, equivalence) for one in variances]))


def _smallest(patients: float, spread: float, freedom: float, equivalence: bool) -> float:
    if not equivalence:
        return detectable(patients, spread, freedom)
    error = np.sqrt(patients + spread)
    return demonstrable_margin(error, satterthwaite(patients, spread, freedom))
