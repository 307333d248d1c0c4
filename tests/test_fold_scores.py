"""Scores over folds: means of folds, patients resampled within folds, what overlap adds, refusals."""

from dataclasses import replace

import numpy as np
import pytest

from lib.comparison import folds
from lib.comparison.arms import RunPredictions, arm_scores, differences, training_noise
from lib.comparison.folds import FoldedRun, fold_noise, fold_seeds, overlap_factor
from lib.exceptions import ComparisonError
from lib.metrics.scores import auroc

NAMES = ("Mass", "Nodule")


def fold_run(fold=0, seed=0, shift=1.0, count=3, patients=60, run="run", scale=1.0):
    """A made-up run on the films of one fold; scale: of its answers, other in every fold."""
    world, own = np.random.default_rng(fold), np.random.default_rng([seed, fold, 7])
    y = (world.random((patients, 2)) < 0.3).astype(float)
    z = shift * y + world.normal(size=y.shape) + own.normal(size=y.shape)
    names = np.array([f"{fold}-{i:03d}" for i in range(patients)])
    probs = scale / (1 + np.exp(-z))
    about = {"fingerprint": f"f{fold}", "folds": count, "fold": fold}
    return RunPredictions(NAMES, names, names, y, probs, run, seed, np.full(2, 0.5), **about)


def folded(seed=0, shift=1.0, **more) -> FoldedRun:
    return FoldedRun(tuple(fold_run(k, seed, shift, **more) for k in range(3)))


def macro(table):
    return table[(table["metric"] == "auroc") & (table["finding"] == "macro")].iloc[0]


def test_a_score_is_the_mean_over_folds_and_folds_are_never_ranked_together():
    parts = [fold_run(k, scale=0.5 ** (3 * k)) for k in range(3)]  # ranked together: nonsense
    runs, _ = fold_seeds(parts)
    expected = np.mean([auroc(p.targets[:, j], p.probs[:, j]) for p in parts for j in (0, 1)])
    assert macro(arm_scores(runs))["value"] == pytest.approx(expected, abs=1e-12)


def test_one_fold_of_its_own_is_a_run_as_any_other():
    run = fold_run(1)
    assert macro(arm_scores([run]))["folds"] == 0
    assert macro(arm_scores([run]))["value"] == pytest.approx(run.points["auroc"][-1])


def test_folds_draw_their_patients_independently():
    """The same films in every fold: with shared random numbers all three would be resampled alike."""
    parts = [replace(fold_run(0), fold=k) for k in range(3)]
    scores = np.array([part.resampled["auroc"][:, -1] for part in parts])
    assert np.abs(np.corrcoef(scores)[np.triu_indices(3, 1)]).max() < 0.1


def test_arms_and_seeds_are_resampled_with_the_same_patients():
    run = folded(0)
    row = macro(differences([run, folded(1)], [folded(1), run]))
    assert row["difference"] == 0 and row["se_patients"] == pytest.approx(0, abs=1e-12)


def test_the_variance_of_patients_is_that_of_a_mean_of_correlated_folds():
    run = folded()
    variances = [np.var(part.resampled["auroc"][:, -1], ddof=1) for part in run.parts]
    assert macro(arm_scores([run]))["se_patients"] ** 2 == pytest.approx(
        np.sum(variances) / 9 * (2 - 1 / 3), rel=0.1
    )


@pytest.mark.parametrize("count", [2, 5, 10])
def test_the_overlap_factor_is_the_correlation_of_nadeau_and_bengio(count):
    train, test = count - 1, 1
    correlation = np.full((count, count), test / (test + train))
    np.fill_diagonal(correlation, 1)
    assert correlation.mean() == pytest.approx(overlap_factor(count) / count)


def test_without_folds_nothing_overlaps():
    assert overlap_factor(1) == 1


def test_seeds_vary_as_their_means_over_folds_do():
    runs = [folded(seed) for seed in range(3)]
    means = [np.mean([p.points["auroc"][-1] for p in run.parts]) for run in runs]
    noise = training_noise([runs])
    assert noise.df == 2 and noise.variance["auroc"][-1] == pytest.approx(np.var(means, ddof=1))


def test_arms_of_one_seed_show_by_fold_how_trainings_differ():
    arms = [[folded(seed, 1.0)] for seed in range(4)]
    noise = training_noise(arms)
    assert noise.df == 6 and not macro(differences(arms[0], arms[1], noise))["one_training"]


def test_the_noise_of_folds_is_what_patients_do_not_explain(monkeypatch):
    """With a patient's variance of nothing all of the interaction of arm and fold is left."""
    arms = [folded(seed) for seed in range(3)]
    monkeypatch.setattr(folds, "spread", lambda values: np.zeros(values.shape[1]))
    scores = np.array([arm.by_fold["auroc"][:, -1] for arm in arms])
    rest = scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True) + scores.mean()
    assert fold_noise(arms, "auroc")[-1] == pytest.approx((rest**2).sum() / 4 / 3)


def test_a_finding_needs_enough_positive_patients_in_every_fold_to_count():
    parts = [fold_run(k) for k in range(3)]
    parts[2].targets[:, 1] = np.arange(60) < 4  # 4 of 60 in one fold, enough in the others
    (run,), _ = fold_seeds(parts)
    assert run.counted.tolist() == [True, False]
    table = arm_scores([run]).query("metric == 'auroc'").set_index("finding")
    assert table.loc["macro", "value"] == table.loc["Mass", "value"]
    assert 0 < table.loc["Nodule", "low"] < table.loc["Nodule", "value"]  # reported by itself


def test_only_seeds_with_all_folds_count_and_the_others_are_named():
    runs = [fold_run(k, seed) for seed in (0, 1) for k in range(3)][:-1]
    whole, left = fold_seeds(runs)
    assert [run.seed for run in whole] == [0] and left == [1]


def test_an_arm_without_a_whole_seed_is_refused():
    with pytest.raises(ComparisonError, match=r"no seed has all 3 folds complete \(seed 0: 2\)"):
        fold_seeds([fold_run(0), fold_run(1)])


def test_a_patient_in_two_folds_is_refused():
    parts = [fold_run(k) for k in range(3)]
    parts[1] = replace(parts[1], patients=np.append(parts[1].patients[:-1], "0-000"))
    with pytest.raises(ComparisonError, match="test a patient in more than one fold"):
        fold_seeds(parts)


def test_other_divisions_of_the_same_patients_are_refused():
    runs = folded()
    others = FoldedRun(tuple(reversed(runs.parts)))
    with pytest.raises(ComparisonError, match="divide the test patients into different folds"):
        differences([others], [runs])


def test_a_group_of_patients_is_scored_within_folds():
    run = folded()
    mask = np.tile(np.arange(60) < 40, 3)
    parts = [replace(part).rows(np.arange(60) < 40) for part in run.parts]
    expected = np.mean([part.points["auroc"][:-1] for part in parts])
    assert run.rows(mask).points["auroc"][-1] == pytest.approx(expected)


def with_positives(masses: int, nodules: int, fold: int = 0) -> RunPredictions:
    """The films of a fold, of which so many patients have a mass and a nodule."""
    targets = np.zeros((60, 2))
    targets[:masses, 0], targets[:nodules, 1] = 1, 1
    return replace(fold_run(fold), targets=targets)


@pytest.mark.parametrize("nodules, counts", [(4, False), (5, True)])
def test_a_finding_counts_where_every_fold_has_enough_patients(nodules, counts):
    run = FoldedRun((with_positives(20, 20), with_positives(20, nodules, fold=1)))
    assert run.counted.tolist() == [True, counts]


def test_a_fold_in_which_no_finding_has_enough_patients_lets_none_in():
    """A run of that fold alone counts all findings; here masses have enough in one fold only, so
    that no finding has enough in every fold."""
    run = FoldedRun((with_positives(20, 3), with_positives(3, 3, fold=1)))
    assert run.parts[1].counted.all() and run.counted.all()


def test_a_fold_without_a_class_does_not_hide_what_the_others_show():
    """A finding that one fold lacks has the noise of the other folds, not none."""
    shifts = [(3.0, 0.2, 3.0), (0.2, 3.0, 0.2)]  # of three folds, for each of two arms
    runs = [[fold_run(k, shift=s, count=4) for k, s in enumerate(arm)] for arm in shifts]
    lacking = [replace(arm[0], targets=arm[0].targets * [1, 0], fold=3) for arm in runs]
    three = fold_noise([FoldedRun(tuple(arm)) for arm in runs], "auroc")[1]
    four = [FoldedRun((*arm, last)) for arm, last in zip(runs, lacking, strict=True)]
    assert np.isnan(four[0].by_fold["auroc"][3, 1]) and three > 0.001
    assert fold_noise(four, "auroc")[1] == pytest.approx(three)
