import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    recall_score,
    roc_auc_score,
)

from lib.config import FINDINGS
from lib.metrics import bootstrap as intervals
from lib.metrics import scores as metrics

PRINTED = {  # by the authors of reproduce-chexnet
    "Atelectasis": 0.81798,
    "Cardiomegaly": 0.90901,
    "Effusion": 0.88272,
    "Infiltration": 0.71564,
    "Mass": 0.83768,
    "Nodule": 0.77558,
    "Pneumonia": 0.76169,
    "Pneumothorax": 0.87761,
    "Consolidation": 0.80020,
    "Edema": 0.89446,
    "Emphysema": 0.93162,
    "Fibrosis": 0.82509,
    "Pleural_Thickening": 0.78892,
    "Hernia": 0.91753,
}
NAMES = ["a", "b", "c"]


@pytest.fixture(params=[(300, None), (300, 1), (40, 2), (7, 1)], ids=str)
def labelled(request):
    """y (N,) and p (N,), the probabilities rounded to so many decimals that they tie."""
    size, decimals = request.param
    rng = np.random.default_rng(size + (decimals or 0))
    y = (rng.random(size) < 0.3).astype(float)
    y[:2] = 0, 1
    p = np.clip(0.3 * y + 0.7 * rng.random(size), 0, 1)
    return y, p if decimals is None else p.round(decimals)


@pytest.fixture
def study():
    """targets (200, 3) with NaN, probs (200, 3) with ties, 80 patients of several images."""
    rng = np.random.default_rng(3)
    targets = (rng.random((200, 3)) < (0.5, 0.2, 0.1)).astype(float)
    probs = np.clip(0.2 * targets + 0.8 * rng.random((200, 3)), 0, 1).round(2)
    targets[rng.random((200, 3)) < 0.2] = np.nan
    return targets, probs, rng.integers(80, size=200).astype(str)


def test_auroc_equals_scikit_learn(labelled):
    assert metrics.auroc(*labelled) == pytest.approx(roc_auc_score(*labelled), abs=1e-12)


def test_average_precision_equals_scikit_learn(labelled):
    assert metrics.average_precision(*labelled) == pytest.approx(
        average_precision_score(*labelled), abs=1e-12
    )


def test_f1_equals_scikit_learn(labelled):
    y, p = labelled
    assert metrics.f1(y, p, 0.4) == pytest.approx(f1_score(y, p >= 0.4), abs=1e-12)


def test_auroc_by_hand_counts_ties_one_half():
    assert metrics.auroc([1, 0, 1, 0], [0.9, 0.9, 0.5, 0.1]) == (0.5 + 1 + 0 + 1) / 4


def test_average_precision_by_hand():
    assert metrics.average_precision([1, 0, 1], [0.9, 0.5, 0.1]) == pytest.approx(
        0.5 * 1 + 0.5 * 2 / 3
    )


def test_constant_probabilities_score_chance():
    y, p = np.array([1, 0, 0, 0]), np.full(4, 0.2)
    assert (metrics.auroc(y, p), metrics.average_precision(y, p)) == (0.5, 0.25)


@pytest.mark.parametrize("y", [[], [1, 1], [0, 0], [np.nan, np.nan], [np.nan, 1]], ids=str)
@pytest.mark.parametrize("metric", [metrics.auroc, metrics.average_precision])
def test_a_missing_class_gives_nan(metric, y):
    assert np.isnan(metric(y, np.linspace(0, 1, len(y))))


def test_f1_without_positives_is_nan():
    assert np.isnan(metrics.f1([0, 0], [0.9, 0.1]))


def test_f1_is_zero_where_no_positive_is_called():
    assert metrics.f1([1, 0], [0.2, 0.1]) == 0


def test_a_probability_equal_to_the_threshold_is_positive():
    assert metrics.f1([1, 0], [0.3, 0.1], 0.3) == 1


@pytest.mark.parametrize("metric", [metrics.auroc, metrics.average_precision, metrics.f1])
def test_images_without_annotation_are_skipped(metric, labelled):
    y, p = labelled
    masked = np.concatenate([y, np.full(5, np.nan)]), np.concatenate([p, np.linspace(0, 1, 5)])
    assert metric(*masked) == metric(y, p)


def test_operating_points_count_each_distinct_probability_once():
    threshold, tp, fp = metrics.operating_points([1, 0, 1, 0, np.nan], [0.9, 0.5, 0.5, 0.1, 0.7])
    assert (threshold.tolist(), tp.tolist(), fp.tolist()) == ([0.9, 0.5, 0.1], [1, 2, 2], [0, 1, 2])


def test_threshold_is_the_best_of_all_that_occur(labelled):
    y, p = labelled
    (best,) = metrics.best_f1_thresholds(y[:, None], p[:, None])
    assert f1_score(y, p >= best) == pytest.approx(
        max(f1_score(y, p >= cut) for cut in p), abs=1e-12
    )


def test_threshold_ties_take_the_highest():
    # 0.8 calls 1 of 2 right (F1 2/3); 0.2 calls 2 of 4 right (F1 2/3)
    assert metrics.best_f1_thresholds(
        [[1], [0], [0], [1]], [[0.8], [0.5], [0.4], [0.2]]
    ).tolist() == [0.8]


def test_threshold_of_a_finding_without_positives_is_nan():
    best = metrics.best_f1_thresholds(
        [[0, 1, np.nan], [0, 0, np.nan]], [[0.9, 0.7, 0.1], [0.1, 0.2, 0.3]]
    )
    np.testing.assert_array_equal(best, [np.nan, 0.7, np.nan])


def test_threshold_is_float32_safe():
    p = np.array([[0.1], [0.3], [0.7]], dtype=np.float32)
    best = metrics.best_f1_thresholds([[0], [1], [1]], p)
    assert metrics.evaluate([[0], [1], [1]], p, ["a"], best).f1[0] == 1


def test_evaluate_equals_scikit_learn_under_a_mask(study):
    targets, probs, _ = study
    cut = np.array([0.3, 0.6, 0.5])
    table = metrics.evaluate(targets, probs, NAMES, cut).set_index("finding")
    for j, name in enumerate(NAMES):
        known = ~np.isnan(targets[:, j])
        y, p = targets[known, j], probs[known, j]
        expected = {
            "auroc": roc_auc_score(y, p),
            "average_precision": average_precision_score(y, p),
            "f1_at_half": f1_score(y, p >= 0.5),
            "f1": f1_score(y, p >= cut[j]),
            "sensitivity": recall_score(y, p >= cut[j]),
            "specificity": recall_score(y, p >= cut[j], pos_label=0),
            "accuracy": accuracy_score(y, p >= cut[j]),
            "accuracy_all_negative": accuracy_score(y, np.zeros_like(y)),
            "positives": y.sum(),
            "negatives": (1 - y).sum(),
        }
        assert table.loc[name, list(expected)].to_dict() == pytest.approx(expected, abs=1e-12)


def test_macro_is_the_mean_of_the_findings_that_have_a_value():
    table = metrics.evaluate(
        [[1, 0, 1], [0, 0, 0], [0, 0, 1]],
        [[0.9, 0.1, 0.6], [0.1, 0.2, 0.7], [0.3, 0.4, 0.8]],
        NAMES,
    )
    macro = table.iloc[-1]
    assert (macro.finding, macro.auroc, macro.n_auroc, macro.n_f1, macro.n_accuracy) == (
        "macro",
        0.75,
        2,
        2,
        3,
    )


def test_macro_counts_all_labels():
    macro = metrics.evaluate([[1, np.nan], [0, 1]], [[0.9, 0.1], [0.1, 0.2]], ["a", "b"]).iloc[-1]
    assert (macro.positives, macro.negatives) == (2, 1)


def test_evaluate_says_where_thresholds_come_from():
    table = metrics.evaluate(
        [[1, 0], [0, 1]], [[0.9, 0.1], [0.1, 0.2]], ["a", "b"], np.array([0.2, np.nan])
    )
    assert table[["threshold", "threshold_from"]].iloc[:2].values.tolist() == [
        [0.2, "validation"],
        [0.5, "default"],
    ]


def test_without_thresholds_all_are_one_half():
    table = metrics.evaluate([[1], [0]], [[0.6], [0.1]], ["a"])
    assert (table.threshold[0], table.threshold_from[0]) == (0.5, "default")


@pytest.mark.parametrize("size", [0, 4])
def test_nothing_annotated_gives_nan_everywhere(size):
    table = metrics.evaluate(np.full((size, 2), np.nan), np.full((size, 2), 0.5), ["a", "b"])
    numbers = table.drop(
        columns=["finding", "threshold", "threshold_from", "in_macro", "positive_patients"]
    )
    assert numbers.filter(regex="^(n_|positives|negatives)").eq(0).all(axis=None)
    assert numbers.filter(regex="^(?!n_|positives|negatives)").isna().all(axis=None)


def test_evaluate_leaves_its_arguments_alone(study):
    before = [array.copy() for array in study]
    metrics.evaluate(*study[:2], NAMES, metrics.best_f1_thresholds(*study[:2]))
    for old, new in zip(before, study, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.1])
def test_a_bad_probability_is_named(value):
    with pytest.raises(ValueError, match=f"probability of image 1, finding b, is {value}.*1 such"):
        metrics.evaluate([[0, 1], [1, 0]], [[0.1, 0.2], [0.3, value]], ["a", "b"])


@pytest.mark.parametrize("value", [2, 1.5, -1, np.inf])
def test_a_bad_target_is_named(value):
    with pytest.raises(ValueError, match=r"target of image 0, finding a, is .*from 0 to 1, or NaN"):
        metrics.evaluate([[value]], [[0.1]], ["a"])


def test_a_soft_target_counts_as_positive_from_one_half_on():
    rng = np.random.default_rng(0)
    soft, probs = rng.random((60, 2)).round(1), rng.random((60, 2))
    soft[:5] = np.nan
    hard = np.where(np.isnan(soft), np.nan, soft >= 0.5)
    pd.testing.assert_frame_equal(
        metrics.evaluate(soft, probs, ["a", "b"]), metrics.evaluate(hard, probs, ["a", "b"])
    )
    np.testing.assert_array_equal(metrics.prevalence(soft), metrics.prevalence(hard))
    for one, other in zip(
        metrics.best_f1_thresholds(soft, probs),
        metrics.best_f1_thresholds(hard, probs),
        strict=True,
    ):
        assert one == other


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 1\) and \(2, 2\)"):
        metrics.evaluate(np.zeros((2, 1)), np.zeros((2, 2)), ["a"])
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        metrics.auroc([0, 1], [0.1, 0.2, 0.3])


def test_findings_must_match_the_columns():
    with pytest.raises(ValueError, match="2 columns but 1 findings"):
        metrics.evaluate(np.zeros((2, 2)), np.zeros((2, 2)), ["a"])


def test_thresholds_must_match_the_findings():
    with pytest.raises(ValueError, match="one number per finding"):
        metrics.evaluate(np.zeros((2, 2)), np.zeros((2, 2)), ["a", "b"], np.array([0.5]))


def test_resamples_equal_scikit_learn_on_repeated_images(study):
    targets, probs, patients = study
    cut = np.array([0.3, np.nan, 0.5])
    scores = intervals.bootstrap_scores(targets, probs, patients, cut, n=20, seed=4)
    names = np.unique(patients)
    drawn = np.random.default_rng(4).integers(len(names), size=(20, len(names)))
    for i, draw in enumerate(drawn):
        rows = np.concatenate([np.flatnonzero(patients == names[k]) for k in draw])
        for j, threshold in enumerate([0.3, 0.5, 0.5]):
            known = rows[~np.isnan(targets[rows, j])]
            y, p = targets[known, j], probs[known, j]
            expected = (
                roc_auc_score(y, p),
                average_precision_score(y, p),
                f1_score(y, p >= threshold),
            )
            assert [scores[m][i, j] for m in scores] == pytest.approx(expected, abs=1e-9)


def test_resamples_do_not_depend_on_row_order(study):
    order = np.random.default_rng(0).permutation(200)
    here = intervals.bootstrap_scores(*study, n=10)
    there = intervals.bootstrap_scores(*(array[order] for array in study), n=10)
    for metric in intervals.INTERVAL_METRICS:
        np.testing.assert_allclose(here[metric], there[metric], atol=1e-12)


def test_blocks_of_resamples_do_not_change_the_scores(study, monkeypatch):
    whole = intervals.bootstrap_scores(*study, n=10)
    monkeypatch.setattr(intervals, "_BLOCK", 700)  # 3 resamples a block
    for metric, scores in intervals.bootstrap_scores(*study, n=10).items():
        np.testing.assert_array_equal(scores, whole[metric])


def test_a_resample_without_positives_is_nan_and_left_out():
    targets, probs = np.array([[1.0], [0], [0]]), np.array([[0.9], [0.4], [0.1]])
    scores = intervals.bootstrap_scores(targets, probs, ["x", "y", "z"], n=200)
    assert {m: set(np.unique(s[~np.isnan(s)])) for m, s in scores.items()} == {
        m: {1.0} for m in scores
    }
    assert np.isnan(scores["f1"]).sum() == pytest.approx(200 * (2 / 3) ** 3, abs=25)


def test_interval_rows_match_evaluate_and_hold_its_values(study):
    targets, probs, patients = study
    table = metrics.evaluate(targets, probs, NAMES)
    both = table.merge(
        intervals.bootstrap_interval(targets, probs, patients, NAMES), on="finding", validate="1:1"
    )
    for metric in intervals.INTERVAL_METRICS:
        assert both[metric].between(both[f"{metric}_low"], both[f"{metric}_high"]).all()


def test_interval_is_the_percentiles_of_the_scores(study):
    targets, probs, patients = study
    table = intervals.bootstrap_interval(targets, probs, patients, NAMES, n=300)
    macro = intervals.bootstrap_scores(targets, probs, patients, n=300)["auroc"].mean(axis=1)
    assert table.iloc[-1][["auroc_low", "auroc_high"]].tolist() == pytest.approx(
        np.quantile(macro, [0.025, 0.975])
    )


def test_a_seed_fixes_the_interval(study):
    first, second, other = (
        intervals.bootstrap_interval(*study, NAMES, n=50, seed=seed) for seed in (0, 0, 1)
    )
    assert first.equals(second) and not first.equals(other)


@pytest.mark.parametrize("patients", [[], ["p"], ["p", "p"]], ids=len)
def test_fewer_than_two_patients_give_no_interval(patients):
    targets, probs = (
        np.array([[1.0], [0]])[: len(patients)],
        np.array([[0.9], [0.2]])[: len(patients)],
    )
    table = intervals.bootstrap_interval(targets, probs, patients, ["a"], n=5)
    assert table.drop(columns="finding").isna().all(axis=None)


@pytest.mark.parametrize("patients", [["p"], ["p", None], ["p", np.nan]], ids=str)
def test_each_image_needs_a_patient(patients):
    with pytest.raises(ValueError, match="one patient for each of the 2 images"):
        intervals.bootstrap_scores(np.array([[1.0], [0]]), np.array([[0.9], [0.2]]), patients)


def test_published_aurocs_come_out(published):
    table = metrics.evaluate(*published[:2], FINDINGS).set_index("finding")
    assert table.auroc.to_dict() == pytest.approx(PRINTED | {"macro": 0.83827}, abs=1e-5)


def test_published_f1_at_half_is_poor_although_accuracy_is_high(published):
    macro = metrics.evaluate(*published[:2], FINDINGS).iloc[-1]
    found = macro[["f1_at_half", "accuracy", "accuracy_all_negative"]].tolist()
    assert found == pytest.approx([0.172, 0.948, 0.947], abs=6e-4)


def test_published_patient_interval_is_wider_than_the_image_interval(published):
    targets, probs, patients = published
    by_patient, by_image = (
        intervals.bootstrap_interval(targets, probs, units, FINDINGS, n=500).iloc[-1][
            ["auroc_low", "auroc_high"]
        ]
        for units in (patients, np.arange(len(targets)))
    )
    assert by_patient.tolist() == pytest.approx([0.8305, 0.8437], abs=2e-3)
    assert by_image.tolist() == pytest.approx([0.8328, 0.8426], abs=2e-3)
    assert np.ptp(by_patient) > np.ptp(by_image)


def test_a_finding_counts_in_the_mean_from_five_positive_patients_on():
    patients = np.array([f"{i // 2}" for i in range(40)])  # 20 patients of two images
    targets = np.zeros((40, 3))
    targets[:8, 0] = 1  # 4 patients
    targets[:10, 1] = 1  # 5 patients
    targets[:34, 2] = 1  # 17 patients, and only 3 without
    assert metrics.counted_findings(targets, patients).tolist() == [False, True, False]
    probs = np.random.default_rng(0).random((40, 3))
    table = metrics.evaluate(targets, probs, list("abc"), patients=patients).set_index("finding")
    assert table.auroc["macro"] == table.auroc["b"] and table.n_auroc["macro"] == 1
    assert table.positive_patients.tolist() == [4, 5, 17, 26]
    limits = intervals.bootstrap_interval(targets, probs, patients, list("abc"), n=50).set_index(
        "finding"
    )
    assert limits.auroc_low.isna().tolist() == [True, False, True, False]


def test_where_no_finding_has_five_positive_patients_all_count():
    assert metrics.counted_findings(np.eye(4), None).all()


@pytest.mark.parametrize(("positives", "negatives"), [(1, 9), (3, 7), (40, 10)])
def test_the_average_precision_of_random_answers_is_the_mean_over_rankings(positives, negatives):
    rng, y = np.random.default_rng(0), np.repeat([1, 0], [positives, negatives])
    drawn = [metrics.average_precision(y, rng.random(len(y))) for _ in range(4000)]
    expected = metrics.random_average_precision(positives, negatives).item()
    assert np.mean(drawn) == pytest.approx(expected, abs=4 * np.std(drawn) / 4000**0.5)
    assert expected > positives / (positives + negatives)


def test_random_answers_to_one_class_have_no_score():
    assert np.isnan(metrics.random_average_precision([3, 0], [0, 3])).all()


def test_the_interval_of_a_score_of_0_or_1_holds_it():
    value, resampled = np.array([0.0, 1.0]), np.tile([0.0, 1.0], (50, 1))
    low, high = intervals.finding_interval(
        "auroc", value, resampled, np.full(2, 20), np.full(2, 20)
    )
    assert low[0] == 0 and high[1] == 1 and (low <= value).all() and (value <= high).all()
