"""Intervals and p-values of studies with folds, in simulated studies in which every model is fitted
again."""

import numpy as np
import pandas as pd
import pytest
from refitted_studies import ARMS, World, simulate

from lib.comparison import arms as comparisons
from lib.comparison.folds import fold_seeds, overlap_factor
from lib.comparison.significance import holm

pytestmark = pytest.mark.timeout(1200)  # on a machine that may be busy
STUDIES = 80
SEEDS = (1, 3)
ORDER = [*ARMS, *ARMS[1:]]
EQUAL = ["same", "other"]


def scored(study: dict, seeds: int) -> list[dict]:
    """The macro rows of the arms' scores and of their differences from the first, with p_holm."""
    runs = {arm: fold_seeds([r for r in all_ if r.seed < seeds])[0] for arm, all_ in study.items()}
    noise = comparisons.training_noise(list(runs.values()))
    rows = [comparisons.arm_scores(runs[arm], noise).iloc[-1] for arm in ARMS]
    rows = [{"what": "score", **row} for row in rows]
    apart = [comparisons.differences(runs[arm], runs["first"], noise).iloc[-1] for arm in ARMS[1:]]
    corrected = holm([row["p"] for row in apart])
    apart = [
        {"what": "difference", "p_holm": p, **row} for row, p in zip(apart, corrected, strict=True)
    ]
    return [{**row, "arm": arm} for row, arm in zip(rows + apart, ORDER, strict=True)]


def simulated(world: World, studies: int, number: int) -> pd.DataFrame:
    """One row per study, number of seeds, and score or difference, with its true value."""
    rng, rows, truths = np.random.default_rng(number), [], []
    for study in range(studies):
        runs, truth = simulate(rng, world, max(SEEDS))
        truths.append(truth.mean(axis=(1, 2)))
        for seeds in SEEDS:
            rows += [row | {"study": study, "trained": seeds} for row in scored(runs, seeds)]
    truth = dict(zip(ARMS, np.mean(truths, axis=0), strict=True))
    truth |= dict.fromkeys(EQUAL, truth["first"])  # by design
    table = pd.DataFrame(rows)
    less = np.where(table["what"] == "difference", truth["first"], 0.0)
    table["true"] = table["arm"].map(truth) - less
    table["value"] = table["value"].fillna(table["difference"])
    return table.assign(covers=table["true"].between(table["low"], table["high"]))


@pytest.fixture(scope="module")
def studies() -> pd.DataFrame:
    """Models of 60 weak features and 400 patients: AUROC 0.71, of 0.78 with unlimited patients."""
    names = ("RESAMPLES", "INTERVAL_METRICS")
    before = {name: getattr(comparisons, name) for name in names}
    try:
        comparisons.RESAMPLES = 200
        comparisons.INTERVAL_METRICS = ("auroc",)
        return simulated(World(), STUDIES, 1)
    finally:
        for name, value in before.items():
            setattr(comparisons, name, value)


# In 1,000 such studies intervals of arms covered in 94 to 97 %, of differences in 96 to 99 %;
# equal arms raised an alarm in 1 to 5 %, any after Holm in 1 to 3 %. Where more data would change
# little (World(1200, features=12, shift=0.4)) intervals covered in 97 to 100 %. Here a share of
# 0.95 has a Monte Carlo error of 0.024, less where arms are taken together.


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("what", ["score", "difference"])
def test_intervals_cover_the_expected_score_of_the_procedure(studies, what, seeds):
    rows = studies[(studies["what"] == what) & (studies["trained"] == seeds)]
    assert 0.93 <= rows["covers"].mean() <= 0.995


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("arm", EQUAL)
def test_equal_procedures_raise_no_more_alarms_than_promised(studies, arm, seeds):
    rows = studies[(studies["what"] == "difference") & (studies["trained"] == seeds)]
    alarms = (rows.loc[rows["arm"] == arm, "p"] < 0.05).mean()
    assert alarms <= 0.05 + 1.645 * np.sqrt(0.05 * 0.95 / STUDIES)


@pytest.mark.parametrize("seeds", SEEDS)
def test_few_studies_raise_any_alarm_between_equal_procedures(studies, seeds):
    rows = studies[(studies["trained"] == seeds) & studies["arm"].isin(EQUAL)]
    alarms = (rows.groupby("study")["p_holm"].min() < 0.05).mean()
    assert alarms <= 0.05 + 1.645 * np.sqrt(0.05 * 0.95 / STUDIES)


def test_a_better_procedure_is_found_more_often_with_more_seeds(studies):
    rows = studies[(studies["what"] == "difference") & (studies["arm"] == "better")]
    found = (rows["p_holm"] < 0.05).groupby(rows["trained"]).mean()
    assert 0.3 < found[1] < found[3]


def test_without_the_overlap_of_training_sets_intervals_would_cover_too_seldom(studies):
    rows = studies[(studies["what"] == "score") & (studies["trained"] == 3)]
    patients = rows["se_patients"] ** 2 / overlap_factor(World().folds)
    reach = 1.96 * np.sqrt(patients + rows["se_seeds"] ** 2)
    assert ((rows["value"] - rows["true"]).abs() <= reach).mean() < 0.92
