import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score, roc_curve

from lib.config import FINDINGS
from lib.metrics import bootstrap as intervals
from lib.metrics import scores as metrics
from lib.metrics import thresholds

NAMES = ["a", "b", "c"]
SHARES = [0.4, 0.2, 0.1]


@pytest.fixture
def scored():
    """targets (400, 3) with NaN, probs (400, 3) with ties, 120 patients of several images."""
    rng = np.random.default_rng(5)
    targets = (rng.random((400, 3)) < SHARES).astype(float)
    probs = np.clip(0.2 * targets + 0.8 * rng.random((400, 3)), 0, 1).round(2)
    targets[rng.random((400, 3)) < 0.2] = np.nan
    return targets, probs, rng.integers(120, size=400).astype(str)


def choose(targets, probs, prevalence=None):
    """choose_thresholds of one finding from (N,) targets and probs, as {rule: row}."""
    table = thresholds.choose_thresholds(
        np.array(targets, float)[:, None],
        np.array(probs, float)[:, None],
        ["a"],
        [0.3 if prevalence is None else prevalence],
    )
    return table.set_index("rule")


def known(targets, probs, j):
    kept = ~np.isnan(targets[:, j])
    return targets[kept, j], probs[kept, j]


def few(positives, negatives=30):
    """Distinct probabilities, the positives the highest."""
    size = positives + negatives
    return (np.arange(size) >= negatives).astype(float), (np.arange(size) + 1) / (size + 1)


def test_rows_are_findings_by_rules_in_order(scored):
    table = thresholds.choose_thresholds(*scored[:2], NAMES, SHARES)
    assert list(table["finding"]) == [name for name in NAMES for _ in range(3)]
    assert list(table["rule"]) == ["f1", "youden", "sensitivity"] * 3
    assert list(table.columns[:5]) == ["finding", "rule", "threshold", "source", "val_positives"]
    assert list(table.columns[5:]) == ["val_sensitivity", "val_specificity", "val_f1"]
    assert list(table.index) == list(range(9)) and set(table["source"]) == {"validation"}


def test_the_f1_rule_is_that_of_the_metrics(scored):
    table = thresholds.choose_thresholds(*scored[:2], NAMES, SHARES).query("rule == 'f1'")
    np.testing.assert_array_equal(table["threshold"], metrics.best_f1_thresholds(*scored[:2]))


def test_the_youden_rule_finds_the_same_point_as_scikit_learn(scored):
    table = thresholds.choose_thresholds(*scored[:2], NAMES, SHARES).query("rule == 'youden'")
    for j, row in enumerate(table.itertuples()):
        fpr, tpr, cuts = roc_curve(*known(*scored[:2], j), drop_intermediate=False)
        assert row.threshold == cuts[np.argmax(tpr - fpr)]
        assert row.val_sensitivity + row.val_specificity - 1 == pytest.approx((tpr - fpr).max())


def test_the_sensitivity_rule_is_the_highest_threshold_that_finds_nine_of_ten(scored):
    table = thresholds.choose_thresholds(*scored[:2], NAMES, SHARES).query("rule == 'sensitivity'")
    for j, row in enumerate(table.itertuples()):
        y, p = known(*scored[:2], j)
        assert row.threshold == max(cut for cut in set(p) if recall_score(y, p >= cut) >= 0.9)
        assert row.val_sensitivity == recall_score(y, p >= row.threshold)


def test_the_rules_by_hand():
    positives, negatives = [0.9] * 6 + [0.6] * 2 + [0.3] * 2, [0.7] * 10 + [0.5] * 10 + [0.2] * 40
    rows = choose([1] * 10 + [0] * 60, positives + negatives)
    # at 0.9: F1 12/16, J 0.6 - 0; at 0.6: 16/28, 0.8 - 10/60; at 0.3: 20/40, 1 - 20/60
    assert rows["threshold"].to_dict() == {"f1": 0.9, "youden": 0.3, "sensitivity": 0.3}
    assert rows.loc["youden", ["val_sensitivity", "val_specificity", "val_f1"]].tolist() == [
        1,
        pytest.approx(2 / 3),
        0.5,
    ]


def test_exactly_nine_of_ten_is_enough():
    for positives in (10, 30, 70, 110):
        y, p = few(positives)
        assert choose(y, p).loc["sensitivity", "val_sensitivity"] == 0.9


def test_of_equally_good_thresholds_the_highest_is_taken():
    rows = choose(
        [1] * 5 + [0] * 5 + [1] * 5 + [0] * 5, [0.8] * 5 + [0.6] * 5 + [0.4] * 5 + [0.2] * 5
    )
    assert rows.loc["youden", "threshold"] == 0.8  # J is 0.5 at 0.8 and at 0.4


def test_where_classes_separate_every_rule_finds_the_gap_or_stays_above_it():
    y, p = few(20)
    rows = choose(y, p)
    assert (rows["val_specificity"] == 1).all() and (
        rows.loc[["f1", "youden"], "val_sensitivity"] == 1
    ).all()


def test_one_positive_too_few_falls_back_and_says_so():
    for positives, source in ((9, "fallback"), (10, "validation")):
        rows = choose(*few(positives))
        assert set(rows["source"]) == {source} and set(rows["val_positives"]) == {positives}


def test_the_fallback_calls_the_training_share_positive_under_every_rule():
    y, p = few(4, negatives=96)
    rows = choose(y, p, prevalence=0.17)
    assert rows["threshold"].nunique() == 1 and (
        p >= rows["threshold"].iloc[0]
    ).mean() == pytest.approx(0.17)


def test_the_fallback_does_not_look_at_validation_labels():
    y, p = few(4, negatives=96)
    pd.testing.assert_series_equal(
        choose(y, p, 0.1)["threshold"], choose(y[::-1], p, 0.1)["threshold"]
    )


def test_the_fallback_with_ties_comes_as_near_as_they_allow():
    p = np.repeat([0.8, 0.5, 0.2], [10, 20, 70])  # shares called: 0.1, 0.3, 1
    for share, threshold in (
        (0.01, 0.8),
        (0.19, 0.8),
        (0.21, 0.5),
        (0.64, 0.5),
        (0.66, 0.2),
        (1, 0.2),
    ):
        assert choose(np.zeros(100), p, share)["threshold"].iloc[0] == threshold


def test_the_fallback_of_a_share_of_less_than_an_image_calls_one():
    rows = choose(*few(3), prevalence=0.002)
    assert (
        rows["val_sensitivity"].iloc[0] == pytest.approx(1 / 3)
        and rows["val_specificity"].iloc[0] == 1
    )


def test_no_negative_image_falls_back():
    rows = choose(np.ones(40), np.linspace(0.1, 0.9, 40), prevalence=0.5)
    assert set(rows["source"]) == {"fallback"} and rows["val_specificity"].isna().all()
    assert rows["val_sensitivity"].iloc[0] == 0.5


@pytest.mark.parametrize("prevalence", [np.nan, 0])
def test_without_a_training_share_the_threshold_is_a_half(prevalence):
    rows = choose(*few(9), prevalence=prevalence)
    assert set(rows["threshold"]) == {0.5} and set(rows["source"]) == {"default"}


def test_a_finding_that_no_image_is_annotated_for_takes_the_quantile_of_all():
    rows = choose(np.full(10, np.nan), np.arange(10) / 10, prevalence=0.3)
    assert (
        set(rows["threshold"]) == {0.7}
        and set(rows["source"]) == {"fallback"}
        and set(rows["val_positives"]) == {0}
    )
    assert rows[["val_sensitivity", "val_specificity", "val_f1"]].isna().all(axis=None)


def test_images_not_annotated_change_nothing():
    y, p = few(20)
    padded = np.append(y, np.full(50, np.nan)), np.append(p, np.random.default_rng(0).random(50))
    pd.testing.assert_frame_equal(choose(y, p), choose(*padded))
    y, p = few(5)
    padded = np.append(y, np.full(50, np.nan)), np.append(p, np.random.default_rng(0).random(50))
    pd.testing.assert_frame_equal(choose(y, p), choose(*padded))


def test_no_validation_image_at_all_is_a_half():
    table = thresholds.choose_thresholds(np.empty((0, 2)), np.empty((0, 2)), ["a", "b"], [0.2, 0.3])
    assert (table["threshold"] == 0.5).all() and (table["source"] == "default").all()


def test_a_prevalence_that_is_no_share_or_of_the_wrong_length_is_refused(scored):
    with pytest.raises(ValueError, match="prevalence of b is 17; it must be a share from 0 to 1"):
        thresholds.choose_thresholds(*scored[:2], NAMES, [0.1, 17, 0.1])
    with pytest.raises(ValueError, match=r"shape \(3,\); got shape \(2,\)"):
        thresholds.choose_thresholds(*scored[:2], NAMES, [0.1, 0.1])
    with pytest.raises(ValueError, match="apply the sigmoid first"):
        thresholds.choose_thresholds(scored[0], scored[1] * 3, NAMES, SHARES)


def points(chosen, targets, probs, patients, **options):
    return thresholds.apply_thresholds(chosen, targets, probs, patients, **options)


@pytest.fixture
def chosen(scored):
    return thresholds.choose_thresholds(*scored[:2], NAMES, SHARES)


def test_test_scores_equal_scikit_learn(chosen, scored):
    table = points(chosen, *scored, n=10)
    pd.testing.assert_frame_equal(table[chosen.columns], chosen)
    for row in table.itertuples():
        y, p = known(*scored[:2], NAMES.index(row.finding))
        called = p >= row.threshold
        assert row.sensitivity == pytest.approx(recall_score(y, called), abs=1e-12)
        assert row.specificity == pytest.approx(recall_score(y, called, pos_label=0), abs=1e-12)
        assert row.precision == pytest.approx(precision_score(y, called), abs=1e-12)
        assert row.f1 == pytest.approx(f1_score(y, called), abs=1e-12)
        assert (row.positives, row.negatives) == ((y == 1).sum(), (y == 0).sum())


def test_the_interval_of_f1_is_that_of_the_metrics(chosen, scored):
    table = points(chosen, *scored, n=300, seed=4).query("rule == 'youden'")
    limits = intervals.bootstrap_interval(
        *scored, NAMES, table["threshold"].to_numpy(), n=300, seed=4
    ).iloc[:-1]
    np.testing.assert_allclose(
        table[["f1_low", "f1_high"]], limits[["f1_low", "f1_high"]], atol=1e-12
    )


def test_intervals_equal_a_loop_over_resampled_images(chosen, scored):
    targets, probs, patients = scored
    names, codes = np.unique(patients, return_inverse=True)
    counts = intervals.resample_counts(len(names), 40, 1)[:, codes].astype(int)  # (B, N)
    table = points(chosen, *scored, n=40, seed=1).query("rule == 'youden'")
    for row in table.itertuples():
        j = NAMES.index(row.finding)
        kept = ~np.isnan(targets[:, j])
        y, called = targets[kept, j], probs[kept, j] >= row.threshold
        for metric, score in (
            ("sensitivity", lambda y, c: recall_score(y, c)),
            ("specificity", lambda y, c: recall_score(y, c, pos_label=0)),
            ("precision", lambda y, c: precision_score(y, c)),
        ):
            values = [score(np.repeat(y, w), np.repeat(called, w)) for w in counts[:, kept]]
            limits = getattr(row, f"{metric}_low"), getattr(row, f"{metric}_high")
            assert limits == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-12)


def test_the_order_of_images_does_not_matter(chosen, scored):
    order = np.random.default_rng(0).permutation(400)
    mixed = points(chosen, *(part[order] for part in scored), n=50)
    pd.testing.assert_frame_equal(points(chosen, *scored, n=50), mixed)


def test_findings_take_their_columns_in_the_order_of_the_table(chosen, scored):
    targets, probs, patients = scored
    turned = chosen.set_index("finding").loc[NAMES[::-1]].reset_index()
    table = points(turned, targets[:, ::-1], probs[:, ::-1], patients, n=50)
    expected = points(chosen, *scored, n=50).set_index("finding").loc[NAMES[::-1]].reset_index()
    pd.testing.assert_frame_equal(table, expected)


def test_rows_may_come_by_rule(chosen, scored):
    by_rule = chosen.sort_values("rule", kind="stable")
    expected = (
        points(chosen, *scored, n=50).sort_values("rule", kind="stable").reset_index(drop=True)
    )
    pd.testing.assert_frame_equal(points(by_rule, *scored, n=50), expected)


def test_nothing_called_positive_has_no_precision(scored):
    targets, probs, patients = scored
    row = points(
        choose(*few(9), 0.5).reset_index().assign(threshold=1.0)[:1],
        targets[:, :1],
        probs[:, :1] / 2,
        patients,
    )
    row = row.iloc[0]
    assert np.isnan([row["precision"], row["precision_low"], row["precision_high"]]).all()
    assert (row["sensitivity"], row["sensitivity_high"], row["specificity_low"], row["f1"]) == (
        0,
        0,
        1,
        0,
    )


def test_a_class_that_is_missing_has_no_number(scored):
    _, probs, patients = scored
    row = points(
        choose(*few(9))[:1].reset_index(), np.zeros((400, 1)), probs[:, :1], patients, n=20
    ).iloc[0]
    assert (
        row[["sensitivity", "sensitivity_low", "f1", "f1_high"]].isna().all()
        and row["precision"] == 0
    )
    assert 0 < row["specificity_low"] < row["specificity"] < row["specificity_high"] < 1


def test_one_patient_has_scores_but_no_interval(chosen, scored):
    table = points(chosen, *scored[:2], ["same"] * 400)
    assert (
        table[[f"{metric}_{end}" for metric in thresholds.TEST_METRICS for end in ("low", "high")]]
        .isna()
        .all(axis=None)
    )
    assert table[list(thresholds.TEST_METRICS)].notna().all(axis=None)


def test_no_test_image_is_no_number(chosen):
    table = points(chosen, np.empty((0, 3)), np.empty((0, 3)), [])
    assert (
        table[list(thresholds.TEST_METRICS)].isna().all(axis=None)
        and (table["positives"] == 0).all()
    )


def test_a_missing_patient_is_refused(chosen, scored):
    with pytest.raises(
        ValueError, match="one patient for each of the 400 images; got 400, 1 of them missing"
    ):
        points(chosen, *scored[:2], [None, *scored[2][1:]])
    with pytest.raises(ValueError, match="got 399, 0 of them missing"):
        points(chosen, *scored[:2], scored[2][1:])


def test_thresholds_of_a_third_of_real_patients_hold_on_the_others(published):
    targets, probs, patients = published
    patients = patients.to_numpy(int)
    val = np.isin(patients, np.random.default_rng(0).permutation(np.unique(patients))[::3])
    chosen = thresholds.choose_thresholds(targets[val], probs[val], FINDINGS, targets.mean(axis=0))
    table = points(chosen, targets[~val], probs[~val], patients[~val])
    by_rule = table.groupby("rule")
    assert by_rule["f1"].mean()["f1"] == pytest.approx(0.305, abs=0.02)
    assert by_rule["sensitivity"].mean()["sensitivity"] == pytest.approx(0.9, abs=0.03)
    best = by_rule[["sensitivity", "specificity"]].mean().sum(axis=1)
    assert best["youden"] > best["f1"] and best["youden"] > best["sensitivity"]
