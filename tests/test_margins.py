"""Equivalence within a margin: the tests, their correction, the words, and how often they err."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_comparisons import answers
from test_studies import SEED, refused, study  # noqa: F401 - a fixture

from lib.comparison import arms as comparisons
from lib.comparison import power_table
from lib.comparison.margins import CLAIMS, correct_claims, demonstrable_margin, margin_tests
from lib.comparison.significance import holm
from lib.comparison.verdicts import compare_arms
from lib.comparison.words import sentence, summary

MARGIN = 0.02
MOST_OF_1000 = stats.binom.ppf(0.999, 1000, 0.05)
"""Errors in 1,000 studies that a procedure of exactly 5 % exceeds once in 1,000 times: 73."""


# --- the tests


def test_two_one_sided_tests_are_those_of_student():
    given = (np.array([0.004]), np.array([0.005]), np.array([9.0]))
    (equivalent,), (not_worse,) = margin_tests(*given, MARGIN)
    assert not_worse == pytest.approx(stats.t.sf((0.004 + 0.02) / 0.005, 9), rel=1e-12)
    assert equivalent == pytest.approx(stats.t.sf((0.02 - 0.004) / 0.005, 9), rel=1e-12)


def test_equivalence_is_shown_where_the_90_percent_interval_lies_within_the_margin():
    error, df = 0.01, 12.0
    reach = stats.t.ppf(0.95, df) * error
    for difference in (MARGIN - reach - 1e-9, MARGIN - reach + 1e-9):
        (p,), _ = margin_tests(np.array([difference]), np.array([error]), np.array([df]), MARGIN)
        assert (p < 0.05) == (difference + reach < MARGIN)


def test_an_arm_against_itself_is_equivalent_within_any_margin():
    p = margin_tests(np.zeros(1), np.zeros(1), np.array([np.inf]), 1e-6)
    assert [one.item() for one in p] == [0, 0]


def test_what_has_no_error_bar_has_no_claim():
    p = margin_tests(np.zeros(1), np.array([np.nan]), np.array([5.0]), MARGIN)
    assert np.isnan(p).all()


# --- the correction


def claims(*rows: tuple[float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(CLAIMS), dtype=float)


def test_a_single_arm_needs_no_correction():
    rows = claims((0.4, 0.03, 0.01))
    assert correct_claims(rows).to_numpy().tolist() == [[0.4, 0.03, 0.01]]


def test_each_p_value_is_multiplied_by_the_arms_that_still_stand():
    """By hand: 0.001, 0.002 and 0.003 decide the first arm; then two arms stand, not three."""
    rows = claims((0.003, 0.002, 0.001), (0.02, 0.6, 0.5), (0.9, 0.8, 0.7))
    corrected = correct_claims(rows).to_numpy()
    assert corrected[0].tolist() == pytest.approx([0.009, 0.006, 0.003])
    assert corrected[1].tolist() == pytest.approx([0.04, 1.0, 1.0])


def test_with_claims_that_nothing_supports_the_correction_is_at_least_holms():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=(6, 1)) ** 3
    rows = claims(*np.hstack([p, np.ones((6, 2))]))
    assert (correct_claims(rows)["p"] >= holm(p[:, 0]) - 1e-12).all()


def test_an_arm_without_a_test_is_not_counted():
    rows = claims((0.02, 0.9, 0.9), (np.nan, np.nan, np.nan))
    corrected = correct_claims(rows)
    assert corrected["p"].iloc[0] == 0.02 and corrected.iloc[1].isna().all()


@pytest.mark.parametrize(
    "truth",
    [
        (MARGIN, MARGIN, MARGIN, MARGIN),
        (-MARGIN, -MARGIN, -MARGIN, -MARGIN),
        (0.0, 0.0, MARGIN, -MARGIN),
        (0.0, 0.0, 0.0, 0.0),
        (0.1, 0.1, 0.1, -MARGIN),
    ],
)
def test_of_1000_studies_at_most_5_percent_claim_anything_false(truth):
    """Four arms against one reference, whose error they share; errors are estimated on 12 degrees of
    freedom. A study errs where any of its claims is false."""
    rng, theta, df = np.random.default_rng(11), np.array(truth), 12
    wrong = right = 0
    for _ in range(1000):
        noise = 0.004 * rng.normal(size=5)
        difference = theta + noise[1:] - noise[0]
        error = 0.004 * np.sqrt(2 * rng.chisquare(df, 4) / df)
        p = 2 * stats.t.sf(np.abs(difference) / error, df)
        freedom = np.full(4, float(df))
        rows = claims(*np.column_stack([p, *margin_tests(difference, error, freedom, MARGIN)]))
        found = correct_claims(rows).to_numpy() < 0.05
        differ = found[:, 0] & ((theta == 0) | (np.sign(difference) != np.sign(theta)))
        false = differ | found[:, 1] & (abs(theta) >= MARGIN) | found[:, 2] & (theta <= -MARGIN)
        wrong += bool(false.any())
        right += bool((found[:, 1] & (theta == 0)).any())
    assert wrong <= MOST_OF_1000
    assert right > 700 or 0.0 not in truth  # and it is no procedure that never claims anything


def test_whole_studies_seldom_call_arms_equivalent_that_differ_by_the_margin(monkeypatch):
    """From predictions to sentences: the true AUROCs of the arms are known, and differ by the margin."""
    monkeypatch.setattr(comparisons, "RESAMPLES", 50)
    margin, sd, studies = 0.1, np.sqrt(2 * (1 + 0.5**2)), 60
    better = 2.0
    worse = sd * stats.norm.ppf(stats.norm.cdf(better / sd) - margin)
    calls = dict.fromkeys((worse, better), 0)
    for number in range(studies):
        for shift in calls:
            rows = [(10 * number + k, shift if k < 2 else better) for k in range(4)]
            runs = [answers(seed, s, 0.5, patients=100, data=number) for seed, s in rows]
            verdicts = compare_arms({"a": runs[2:], "b": runs[:2]}, "a", margin=margin)
            calls[shift] += "b and a are equivalent" in verdicts.sentences()[0]
    assert calls[worse] <= stats.binom.ppf(0.999, studies, 0.05)
    assert calls[better] > studies / 2


# --- the words


def row_of(**changes) -> pd.Series:
    """A row of `changes`, of an arm b against a."""
    rows = compare_arms({"a": [answers(0), answers(1)], "b": [answers(2), answers(3)]}, "a")
    row = rows.macro().iloc[0].copy()
    row["margin"], row["demonstrable"] = MARGIN, 0.05
    return pd.Series({**row, "p_equivalent": 0.5, "p_not_worse": 0.5, **changes})


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.002, 0.6, 0.01, 0.004), "b and a are equivalent within the margin of 0.02: "),
        ((0.012, 0.3, 0.20, 0.004), "b is not worse than a by more than the margin of 0.02: "),
        ((0.012, 0.01, 0.03, 0.001), "; the difference is within the margin of 0.02 (p = 0.030"),
        ((-0.012, 0.01, 0.20, 0.030), "; by less than the margin of 0.02 (p = 0.030 corrected)."),
        ((0.030, 0.01, 0.80, 0.001), "b is better than a by 0.030 "),
        ((0.010, 0.30, 0.30, 0.200), "equivalence would show for margins over about 0.050, and"),
    ],
)
def test_the_sentence_says_no_more_than_the_tests(numbers, text):
    names = ("difference", "p_holm", "p_equivalent", "p_not_worse")
    found = sentence(row_of(**dict(zip(names, numbers, strict=True))), "a")
    assert text in found
    assert ("are equivalent" in found) == (numbers[2] < 0.05 <= numbers[1])
    assert ("better than" in found) == (numbers[1] < 0.05 and numbers[0] > 0)


def test_the_table_and_the_summary_name_the_claim():
    arms = {"a": [answers(0), answers(1)], "b": [answers(2), answers(3)]}
    verdicts = compare_arms(arms, "a", margin=0.4)
    assert "b and a are equivalent within the margin of 0.4: AUROC" in verdicts.sentences()[0]
    runs = pd.DataFrame({"arm": ["a", "b"], "what": "", "prerequisite": False})
    runs[["accuracy", "accuracy_all_negative"]] = 0.9
    assert "**equivalent within the margin**" in summary(runs, verdicts)


def test_without_a_margin_nothing_changes():
    arms = {"a": [answers(0), answers(1)], "b": [answers(2, 2.0), answers(3, 2.0)]}
    plain = compare_arms(arms, "a").changes
    assert not {"p_equivalent", "margin"} & set(plain.columns)
    with_margin = compare_arms(arms, "a", margin=0.01).changes[plain.columns]
    pd.testing.assert_frame_equal(plain, with_margin)  # one arm: no correction to change


def test_only_the_primary_metric_is_tested_against_the_margin():
    arms = {"a": [answers(0), answers(1)], "b": [answers(2), answers(3)]}
    changes = compare_arms(arms, "a", primary="f1", margin=0.2).changes
    secondary = changes[changes["metric"] != "f1"]
    assert secondary["p_equivalent"].isna().all() and secondary["demonstrable"].isna().all()
    assert changes.loc[changes["metric"] == "f1", "p_equivalent"].notna().all()


def test_one_training_each_has_no_claim():
    changes = compare_arms({"a": [answers(0)], "b": [answers(1)]}, "a", margin=0.4).changes
    assert changes[["p_equivalent", "p_not_worse"]].isna().all(axis=None)


# --- power


def test_the_demonstrable_margin_has_80_percent_power():
    """Two arms that are equal, the error known: the power of the two tests is an integral over the
    normal distribution."""
    margin = demonstrable_margin(0.01, np.inf)
    reach = margin - stats.norm.ppf(0.95) * 0.01  # shown where the estimate lies within
    assert stats.norm.cdf(reach / 0.01) - stats.norm.cdf(-reach / 0.01) == pytest.approx(0.8)


def test_the_power_table_has_margins_too():
    arms = {"a": [answers(0), answers(1)], "b": [answers(2), answers(3)]}
    verdicts = compare_arms(arms, "a")
    margins = power_table(verdicts, equivalence=True)
    assert (margins > 0).all(axis=None) and list(margins) == list(power_table(verdicts))
    assert margins.loc["macro AUROC"].is_monotonic_decreasing


# --- the study file


def test_the_margin_of_a_study_is_in_its_plan(study):  # noqa: F811
    assert study(SEED + "margin: {auroc: 0.01}\n").as_json()["margin"] == {"auroc": 0.01}
    assert "margin" not in study(SEED).as_json()


@pytest.mark.parametrize(
    ("margin", "words"),
    [
        ({"auroc": 0}, "a difference in it between 0 and 1"),
        ({"auroc": float("nan")}, "a difference in it between 0 and 1"),
        ({"auroc": "small"}, "a difference in it between 0 and 1"),
        (0.01, "a difference in it between 0 and 1"),
        ({"accuracy": 0.01}, "accuracy"),
        ({"f1": 0.01}, "verdicts are of the primary metric, auroc"),
    ],
)
def test_a_margin_that_cannot_be_meant_is_refused(study, margin, words):  # noqa: F811
    refused(study, "margin", words, top={"margin": margin})
