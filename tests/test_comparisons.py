"""Comparisons: intervals that cover, no false alarms, Holm and DeLong against known answers,
refusals, sentences."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from delong import delong
from scipy import stats

from lib.comparison import arms as comparisons
from lib.comparison.arms import (
    RunPredictions,
    arm_scores,
    common_findings,
    differences,
    training_noise,
)
from lib.comparison.power import power_table
from lib.comparison.significance import detectable, holm
from lib.comparison.verdicts import compare_arms
from lib.comparison.words import p_text, sentence, summary
from lib.exceptions import ComparisonError
from lib.metrics.scores import auroc

MASS = ("Mass",)


def answers(
    seed=0, shift=1.0, noise=1.0, patients=60, findings=MASS, data=0, run="run"
) -> RunPredictions:
    """A made-up run on the films of `data`: two films a patient, answers shifted by the finding."""
    world, own = np.random.default_rng(data), np.random.default_rng([seed, 7])
    names = np.repeat([f"p{i:03d}" for i in range(patients)], 2)
    y = (world.random((2 * patients, len(findings))) < 0.3).astype(float)
    z = shift * y + world.normal(size=y.shape) + noise * own.normal(size=y.shape)
    images = np.array([f"{i:04d}.png" for i in range(2 * patients)])
    thresholds = np.full(len(findings), 0.5)
    return RunPredictions(findings, images, names, y, 1 / (1 + np.exp(-z)), run, seed, thresholds)


def macro(table: pd.DataFrame, metric="auroc") -> pd.Series:
    return table[(table["metric"] == metric) & (table["finding"] == "macro")].iloc[0]


# --- known answers


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (
            [0.01, 0.04, 0.03],
            [0.03, 0.06, 0.06],
        ),  # 3 x 0.01, 2 x 0.03, then not below the one before
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02, np.nan, 0.01], [0.02, np.nan, 0.02]),
        ([], []),
    ],
)
def test_holm_corrects_as_computed_by_hand(p, expected):
    np.testing.assert_allclose(holm(p), expected)


def test_an_arm_is_the_mean_of_its_seeds():
    runs = [answers(seed) for seed in range(3)]
    expected = np.mean([auroc(run.targets[:, 0], run.probs[:, 0]) for run in runs])
    assert macro(arm_scores(runs))["value"] == pytest.approx(expected)


def test_the_spread_over_seeds_is_their_standard_error():
    runs = [answers(seed, noise=2.0) for seed in range(3)]
    scores = [auroc(run.targets[:, 0], run.probs[:, 0]) for run in runs]
    assert macro(arm_scores(runs))["se_seeds"] == pytest.approx(stats.sem(scores))


def test_an_arm_does_not_differ_from_itself():
    row = macro(differences([answers(0), answers(1)], [answers(0), answers(1)]))
    assert row["difference"] == 0 and row["low"] <= 0 <= row["high"] and row["p"] == 1


def test_the_same_answers_with_other_signs_differ_by_as_much():
    a, b = [answers(0, 1.5), answers(2, 1.5)], [answers(1, 0.5), answers(3, 0.5)]
    there, back = macro(differences(a, b)), macro(differences(b, a))
    assert there["difference"] == pytest.approx(-back["difference"]) and there[
        "p"
    ] == pytest.approx(back["p"])


def test_pairing_over_patients_narrows_the_interval():
    better, worse = answers(0, 1.5, noise=0.3), answers(1, 1.0, noise=0.3)
    paired = macro(differences([better], [worse]))["se_patients"]
    alone = [macro(arm_scores([run]))["se_patients"] for run in (better, worse)]
    assert paired < 0.8 * np.hypot(*alone)


def test_degrees_of_freedom_are_those_of_satterthwaite():
    row = macro(differences([answers(seed, 0.6 * seed) for seed in range(3)], [answers(9, 1.0)]))
    a, b = row["se_patients"] ** 2, row["se_seeds"] ** 2
    assert row["df"] == pytest.approx((a + b) ** 2 / (b**2 / 2))
    reach = stats.t.ppf(0.975, row["df"]) * np.sqrt(a + b)
    assert row["high"] - row["difference"] == pytest.approx(reach)


def test_the_noise_of_training_is_pooled_over_arms():
    arms = [[answers(seed, shift) for seed in range(3)] for shift in (0.5, 1.0, 1.5)]
    scores = [[auroc(run.targets[:, 0], run.probs[:, 0]) for run in arm] for arm in arms]
    noise = training_noise(arms)
    assert noise.df == 6 and noise.variance["auroc"][-1] == pytest.approx(
        np.mean([np.var(s, ddof=1) for s in scores])
    )


def test_an_arm_of_one_seed_borrows_the_noise_of_the_others():
    arms = [[answers(seed, 1.0, 2.0) for seed in range(4)], [answers(9, 1.0, 2.0)]]
    assert macro(arm_scores(arms[1]))["se_seeds"] == 0
    assert macro(arm_scores(arms[1], training_noise(arms)))["se_seeds"] > 0


def test_a_finding_of_one_class_has_no_interval_and_stays_out_of_the_mean():
    run = answers(findings=("Mass", "Nodule"))
    run.targets[:, 1] = 0
    table = arm_scores([run]).query("metric == 'auroc'").set_index("finding")
    assert np.isnan(table.loc["Nodule", "value"]) and np.isnan(table.loc["Nodule", "low"])
    assert table.loc["macro", "value"] == table.loc["Mass", "value"]


def test_detectable_is_the_power_formula():
    assert detectable(0.02**2, 0, 0) == pytest.approx((1.959964 + 0.841621) * 0.02, rel=1e-5)


# --- DeLong, an independent check


def test_delong_gives_the_variance_of_the_placement_values():
    y = np.array([1, 1, 1, 0, 0, 0, 0])
    p = np.array([0.9, 0.4, 0.7, 0.5, 0.3, 0.4, 0.1])
    q = np.array([0.6, 0.5, 0.3, 0.2, 0.7, 0.1, 0.4])
    rows = []
    for score in (p, q):
        order = (score[y == 1][:, None] > score[y == 0]) + 0.5 * (
            score[y == 1][:, None] == score[y == 0]
        )
        rows.append((order.mean(1), order.mean(0)))
    positive, negative = rows[0][0] - rows[1][0], rows[0][1] - rows[1][1]
    expected = positive.var(ddof=1) / 3 + negative.var(ddof=1) / 4
    difference, error = delong(y, p, q)
    assert difference == pytest.approx(auroc(y, p) - auroc(y, q)) and error**2 == pytest.approx(
        expected
    )


def test_delong_agrees_with_the_bootstrap_by_patient():
    a, b = answers(0, 1.5, patients=400), answers(1, 0.8, patients=400)
    row = differences([a], [b]).iloc[0]
    difference, error = delong(a.targets[:, 0], a.probs[:, 0], b.probs[:, 0], a.patients)
    assert difference == pytest.approx(row["difference"]) and error == pytest.approx(
        row["se_patients"], rel=0.1
    )


def test_delong_sees_that_copies_of_a_film_are_no_new_patients():
    a, b = answers(0, 1.5, patients=200), answers(1, 0.8, patients=200)
    y, p, q, names = a.targets[:, 0], a.probs[:, 0], b.probs[:, 0], np.arange(400)
    single = delong(y, p, q)[1]
    twice = delong(np.tile(y, 2), np.tile(p, 2), np.tile(q, 2), np.tile(names, 2))[1]
    assert twice == pytest.approx(single, rel=0.01)


# --- simulations: does the interval hold the truth, is there a false alarm?

pytestmark = pytest.mark.timeout(1200)  # on a machine that may be busy
SIMULATIONS = 1000


def simulated(
    rng: np.random.Generator, shifts: list[float], seeds: int, spread: float
) -> list[list[RunPredictions]]:
    """Arms on one new test set: 45 patients of one to three films alike; each training has its own
    luck."""
    count = rng.integers(1, 4, 45)
    patients = np.repeat(np.arange(45), count)
    y = (rng.random(45) < 0.4).astype(float)[patients]
    common = (rng.normal(size=45) * 0.7)[patients] + rng.normal(size=len(y)) * 0.7
    arms = []
    for shift in shifts:
        runs = []
        for seed in range(seeds):
            own = (rng.normal(size=45) * 0.4)[patients] + rng.normal(size=len(y)) * 0.4
            p = stats.norm.cdf((shift + spread * rng.normal()) * y + common + own)
            images = np.arange(len(y)).astype(str)
            runs.append(
                RunPredictions(
                    MASS, images, patients, y[:, None], p[:, None], "run", seed, np.array([0.5])
                )
            )
        arms.append(runs)
    return arms


@pytest.fixture(scope="module")
def simulations() -> pd.DataFrame:
    """Differences and scores of two arms, 2 seeds each, in 1,000 simulated studies; the arms are
    equally good."""
    rng, rows = np.random.default_rng(1), []
    before, comparisons.RESAMPLES = comparisons.RESAMPLES, 200
    try:
        for _ in range(SIMULATIONS):
            first, second, third = simulated(rng, [1.2, 1.2, 0.6], seeds=2, spread=0.15)
            noise = training_noise([first, second, third])
            same, other = (macro(differences(arm, first, noise)) for arm in (second, third))
            rows.append({"same": same, "other": other, "score": macro(arm_scores(first, noise))})
    finally:
        comparisons.RESAMPLES = before
    return pd.DataFrame(rows)


def truth(shift: float, spread: float = 0.15) -> float:
    """AUROC of one film against another patient's: normal scores, averaged over the luck of
    trainings."""
    lucky = shift + spread * stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    return float(stats.norm.cdf(lucky / np.sqrt(2 * (2 * 0.7**2 + 2 * 0.4**2))).mean())


def covered(rows: pd.Series, value: float) -> float:
    return float(np.mean([row["low"] <= value <= row["high"] for row in rows]))


def test_the_interval_of_an_arm_holds_the_truth(simulations):
    assert 0.93 <= covered(simulations["score"], truth(1.2)) <= 0.985


def test_the_interval_of_a_difference_holds_the_truth(simulations):
    assert 0.93 <= covered(simulations["other"], truth(0.6) - truth(1.2)) <= 0.97
    assert 0.93 <= covered(simulations["same"], 0.0) <= 0.97


def test_equal_arms_raise_no_more_false_alarms_than_promised(simulations):
    alarms = np.mean([row["p"] < 0.05 for row in simulations["same"]])
    assert alarms <= 0.05 + 1.645 * np.sqrt(0.05 * 0.95 / SIMULATIONS)


# --- refusals and words


def test_runs_tested_on_other_images_are_refused_with_the_reason():
    a, b = answers(run="a"), answers(run="b", patients=50)
    with pytest.raises(
        ComparisonError, match=r"a and b were tested on different images \(120 and 100, 100 of them"
    ):
        common_findings([a, b])


def test_runs_with_other_labels_are_refused():
    a, b = answers(run="a"), answers(run="b")
    b.targets[:3] = 1 - b.targets[:3]
    with pytest.raises(ComparisonError, match="the labels of 3 test images differ"):
        common_findings([a, b])


def test_runs_without_a_shared_finding_are_refused():
    with pytest.raises(ComparisonError, match="share no finding"):
        common_findings([answers(), answers(findings=("Nodule",))])


def test_one_task_compares_with_many_on_the_finding_they_share():
    many = answers(findings=("Mass", "Nodule"))
    table = differences([many.on(MASS)], [many])
    assert set(table["finding"]) == {"Mass", "macro"} and (table["difference"] == 0).all()


def test_a_verdict_names_the_better_arm_with_its_numbers():
    arms = {"good": [answers(s, 2.5) for s in (0, 1)], "bad": [answers(s, 0.2) for s in (2, 3)]}
    (told,) = compare_arms(arms, "good").sentences()
    row = compare_arms(arms, "good").macro().iloc[0]
    assert told.startswith(
        f"bad is worse than good by {-row['difference']:.3f} AUROC of one shared finding ("
    )
    assert (
        f"{-row['high']:.3f} to {-row['low']:.3f}, {p_text(row['p_holm'])} corrected, 2 seeds, 60 patients"
        in told
    )


def test_a_verdict_says_when_the_data_cannot_tell():
    arms = {"one": [answers(s) for s in (0, 1)], "two": [answers(s) for s in (2, 3)]}
    (told,) = compare_arms(arms, "one").sentences()
    assert (
        told.startswith("two and one cannot be told apart: ")
        and "only differences over about 0." in told
    )


def test_a_difference_beyond_the_scale_is_not_said_to_show():
    arms = {"one": [answers(s) for s in (0, 1)], "two": [answers(s) for s in (2, 3)]}
    row = compare_arms(arms, "one").macro().iloc[0]
    assert sentence(pd.Series({**row, "detectable": 2.35}), "one").endswith(
        "no difference could show."
    )


def test_a_single_training_is_said_to_be_one():
    row = compare_arms({"one": [answers(0)], "two": [answers(1)]}, "one").macro().iloc[0]
    assert "may be chance in training" in sentence(row, "one")


def test_an_arm_that_does_not_compare_says_why_and_the_others_go_on():
    arms = {
        "one": [answers(0)],
        "two": [answers(1)],
        "else": [answers(2, patients=50, run="else-s2")],
    }
    verdicts = compare_arms(arms, "one")
    assert list(verdicts.refused) == ["else"] and set(verdicts.changes["arm"]) == {"two"}
    assert verdicts.sentences()[-1].startswith("else is not compared: ")


def test_p_values_are_corrected_over_the_arms():
    arms = {f"arm{s}": [answers(s, 1.0 + 0.1 * s)] for s in range(4)}
    table = compare_arms(arms, "arm0").macro()
    np.testing.assert_allclose(table["p_holm"], holm(table["p"]))


def test_more_seeds_show_smaller_differences():
    arms = {
        name: [answers(s + shift, 1.0, 2.0) for s in range(3)]
        for shift, name in ((0, "one"), (9, "two"))
    }
    row = power_table(compare_arms(arms, "one")).loc["macro AUROC"]
    assert (np.diff(row) < 0).all() and (row > 0).all()


def test_seeds_that_agree_by_chance_never_narrow_what_patients_leave_open():
    """Runs that rank patients differently, yet happen to score alike."""
    runs = sorted((answers(s, 0.5) for s in range(40)), key=lambda run: run.points["auroc"][-1])[
        19:21
    ]
    assert np.ptp([run.points["auroc"][-1] for run in runs]) < 0.01
    alone = np.std(np.mean([run.resampled["auroc"][:, -1] for run in runs], axis=0), ddof=1)
    row = macro(arm_scores(runs))
    assert row["high"] - row["low"] >= 2 * 1.95 * alone


def test_what_would_show_allows_for_the_correction():
    one = [answers(s) for s in (0, 1)]
    others = {f"arm{s}": [answers(s), answers(s + 1)] for s in range(2, 22, 2)}
    few = compare_arms({"one": one, "arm2": others["arm2"]}, "one").macro().iloc[0]
    many = compare_arms({"one": one, **others}, "one").macro().iloc[0]
    assert few["arm"] == many["arm"] and many["detectable"] > few["detectable"]


def test_a_finding_without_a_positive_film_compares_by_nothing():
    none = [answers(s) for s in (0, 1)]
    none = [replace(run, targets=np.zeros_like(run.targets)) for run in none]
    row = compare_arms({"one": none[:1], "two": none[1:]}, "one").macro().iloc[0]
    assert np.isnan(row["p_holm"]) and np.isnan(row["detectable"])


def test_an_arm_whose_seeds_were_tested_on_other_films_is_refused_alone():
    arms = {"one": [answers(0)], "two": [answers(1)], "odd": [answers(2), answers(3, patients=50)]}
    verdicts = compare_arms(arms, "one")
    assert "different images" in verdicts.refused["odd"] and set(verdicts.scores["arm"]) == {
        "one",
        "two",
    }
    with pytest.raises(ComparisonError, match="different images"):
        compare_arms(arms, "odd")


def test_the_summary_has_a_row_an_arm_with_its_verdict():
    arms = {"one": [answers(s) for s in (0, 1)], "two": [answers(s, 2.5) for s in (2, 3)]}
    runs = pd.DataFrame(
        {
            "arm": ["one", "one", "two", "two"],
            "prerequisite": False,
            "what": [None, None, np.nan, np.nan],
        }
    )
    lines = summary(
        runs.assign(accuracy=0.8, accuracy_all_negative=0.7), compare_arms(arms, "one")
    ).splitlines()
    assert (
        len(lines) == 4
        and lines[2].startswith("| one | the reference | ")
        and "0.800 (0.700)" in lines[2]
    )
    assert (
        lines[3].startswith("| two | all its own | ")
        and "| **better**, on one finding: +0." in lines[3]
    )


# --- one training, one metric, few patients


def test_one_training_each_has_an_interval_over_patients_but_no_p_value():
    row = macro(differences([answers(0, 1.5)], [answers(1, 0.5)]))
    assert (
        row["one_training"] and np.isnan(row["p"]) and row["low"] < row["difference"] < row["high"]
    )


def test_one_training_each_has_a_p_value_where_other_arms_show_how_trainings_differ():
    noise = training_noise([[answers(seed, 1.0) for seed in range(3)]])
    row = macro(differences([answers(0, 1.5)], [answers(1, 0.5)], noise))
    assert not row["one_training"] and 0 <= row["p"] <= 1


def test_a_sentence_on_one_training_each_is_no_verdict():
    (text,) = compare_arms({"a": [answers(0, 0.2)], "b": [answers(1, 3.0)]}, "a").sentences()
    assert (
        "one training each" in text
        and "no verdict: run another seed" in text
        and "better" not in text
    )


def test_only_the_primary_metric_gets_verdicts():
    arms = {"a": [answers(0, 0.2), answers(1, 0.2)], "b": [answers(2, 3.0), answers(3, 3.0)]}
    verdicts = compare_arms(arms, "a", primary="f1")
    assert (
        verdicts.macro()["metric"].item() == "f1" and verdicts.macro("auroc")["p_holm"].isna().all()
    )
    assert verdicts.sentences("auroc")[0].startswith("Secondary, no verdict: b against a, AUROC")
    assert "b is better than a" in verdicts.sentences()[0]


def test_one_patient_with_all_positives_has_no_error_by_delong():
    y, p = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.8, 0.3, 0.2, 0.5])
    assert np.isnan(delong(y, p, p[::-1], ["1", "1", "2", "3", "4"])[1])


# --- what is kept beside a run


def test_resamples_are_kept_beside_the_run_and_belong_to_its_predictions(tmp_path, monkeypatch):
    run = replace(answers(), folder=tmp_path)
    first = run.resampled
    (kept,) = (tmp_path / "resamples").glob("*.npz")
    with monkeypatch.context() as patch:
        patch.setattr(
            comparisons, "bootstrap_scores", lambda *_, **__: pytest.fail("resampled again")
        )
        again = replace(run).resampled
    assert all(np.array_equal(first[metric], again[metric], equal_nan=True) for metric in first)
    _ = replace(run, probs=run.probs**2, thresholds=run.thresholds**2).resampled
    assert len(list((tmp_path / "resamples").glob("*.npz"))) == 2
    kept.write_bytes(b"damaged")
    assert np.array_equal(replace(run).resampled["auroc"], first["auroc"])


def test_the_scores_of_metrics_csv_are_not_computed_again(monkeypatch):
    run = answers()
    scored = {metric: values[:-1] for metric, values in run.points.items()}
    monkeypatch.setattr(comparisons, "point_scores", lambda *_: pytest.fail("scored again"))
    assert replace(run, scored=scored).points["auroc"].tolist() == run.points["auroc"].tolist()
