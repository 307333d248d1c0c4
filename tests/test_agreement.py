"""Agreement with a teacher: flags and heat maps by hand, means over patients against scipy."""

from dataclasses import replace

import numpy as np
import pytest
from made_studies import make_study
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from lib.comparison.arms import RunPredictions
from lib.compression.agreement import (
    OTHER_SEEDS,
    agreement_table,
    changed_flags,
    map_agreement,
    mean_over_patients,
)
from lib.exceptions import RunError


def run(probs, thresholds) -> RunPredictions:
    probs = np.array(probs)
    names = np.array(["a", "b"])[: len(probs)]
    return RunPredictions(
        ("Mass", "Edema"), names, names, np.zeros(probs.shape), probs, "r", 0, np.array(thresholds)
    )


def test_a_flag_changes_where_one_run_raises_it_at_its_own_threshold():
    teacher = run([[0.9, 0.1], [0.4, 0.6]], [0.5, 0.5])
    small = run([[0.3, 0.1], [0.3, 0.1]], [0.2, 0.2])
    # film a: Mass 0.3 >= 0.2 as 0.9 >= 0.5; film b: Mass is raised by the small one alone, Edema not
    assert changed_flags(small, teacher).tolist() == [0.0, 1.0]


def test_a_threshold_that_is_missing_is_a_half():
    teacher = run([[0.6, 0.1]], [np.nan, 0.5])
    assert changed_flags(run([[0.6, 0.1]], [0.7, 0.5]), teacher).tolist() == [0.5]


def test_runs_of_other_films_are_refused():
    one = run([[0.6, 0.1]], [0.5, 0.5])
    with pytest.raises(RunError, match="do not answer the same films"):
        changed_flags(replace(one, images=np.array(["z"])), one)


def test_with_one_film_per_patient_the_interval_is_students():
    values = np.random.default_rng(0).normal(size=20)
    found = mean_over_patients(values, np.arange(20))
    wanted = ttest_1samp(values, 0).confidence_interval()
    np.testing.assert_allclose(found, [values.mean(), wanted.low, wanted.high])


def test_films_of_one_patient_count_together():
    values, patients = np.repeat([0.0, 0.5, 1.0], 4), np.repeat(["a", "b", "c"], 4)
    mean, low, high = mean_over_patients(values, patients)
    reach = student.ppf(0.975, 2) * np.std([0, 0.5, 1], ddof=1) / np.sqrt(3)
    np.testing.assert_allclose([mean, low, high], [0.5, 0.5 - reach, 0.5 + reach])


def test_one_patient_has_no_interval_and_no_film_no_mean():
    assert np.isnan(mean_over_patients(np.ones(3), np.zeros(3))[1:]).all()
    assert np.isnan(mean_over_patients(np.empty(0), np.empty(0))).all()


def test_heat_maps_are_compared_for_the_finding_that_is_strongest_for_the_reference():
    rng = np.random.default_rng(0)
    reference = rng.random((1, 2, 4, 4))
    reference[0, 1] += 5
    maps = rng.random((1, 2, 4, 4))
    maps[0, 1] = 3 * reference[0, 1] + 1  # alike up to a scale
    assert map_agreement(maps, reference)[0] == pytest.approx(1)
    maps[0, 1] = -reference[0, 1]
    assert map_agreement(maps, reference)[0] == pytest.approx(-1)


def test_a_coarser_map_of_the_same_slope_agrees():
    slope = np.linspace(0, 1, 8)[None, :].repeat(8, 0)[None, None]
    coarse = np.linspace(0, 1, 4)[None, :].repeat(4, 0)[None, None]
    assert map_agreement(coarse, slope)[0] > 0.99


def test_a_map_that_is_the_same_everywhere_agrees_with_nothing():
    assert np.isnan(map_agreement(np.ones((1, 1, 3, 3)), np.arange(9.0).reshape(1, 1, 3, 3)))[0]


def test_the_table_has_the_reference_beside_itself_and_other_seeds_first(tmp_path):
    arms = {"teacher": 1.0, "small": 0.6}
    table = agreement_table(make_study(tmp_path / "made", arms, seeds=2, folds=2), films=0)
    table = table.set_index("arm")
    assert list(table.index) == [OTHER_SEEDS, "teacher", "small"]
    assert table.loc["teacher", "flags"] == 0 and table.loc["small", "runs"] == 4
    row = table.loc["small"]
    assert 0 < row["flags_low"] < row["flags"] < row["flags_high"]
    assert row["ece_least"] <= row["ece"] <= row["ece_most"]
    assert table["heat_maps"].isna().all()
