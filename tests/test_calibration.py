import json
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from lib.config import FINDINGS
from lib.exceptions import CxrError
from lib.metrics import calibration
from lib.metrics.calibration import (
    Calibration,
    calibration_scores,
    calibration_table,
    fit_calibration,
    keeps_order,
    reliability,
)
from lib.metrics.scores import auroc
from lib.plots import curves as plots_calibration
from lib.plots.style import PHANTOM_NOTE


def simulated(slope, intercept, images=1500, findings=12, seed=0):
    """targets (N, F), the probs of a model whose logits are slope * truth + intercept, and 500
    patients."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-2.5, 1.5, (images, findings))
    targets = (rng.random(truth.shape) < expit(truth)).astype(float)
    return (
        targets,
        expit(slope * truth + intercept),
        rng.integers(500, size=images),
        [f"f{j}" for j in range(findings)],
    )


def one(y, p, patients=None, **options):
    """The calibration of one finding from (N,) targets and probs, a patient for each image unless
    named."""
    y, p = np.asarray(y, dtype=float), np.asarray(p, dtype=float)
    return fit_calibration(
        y[:, None],
        p[:, None],
        np.arange(len(y)) if patients is None else patients,
        ["a"],
        **options,
    )


def with_maps(*maps):
    """A Calibration with these (slope, intercept)."""
    slope, intercept = np.array(maps, dtype=float).T
    names = tuple(f"f{j}" for j in range(len(maps)))
    losses, positives = np.full((len(maps), 3), 0.5), np.full(len(maps), 20)
    return Calibration(names, ("platt",) * len(maps), slope, intercept, losses, positives)


def test_probabilities_that_are_calibrated_are_left_alone():
    cal = fit_calibration(*simulated(1, 0, findings=40))
    assert cal.method.count("none") >= 38
    left = np.array(cal.method) == "none"
    assert (cal.slope[left] == 1).all() and (cal.intercept[left] == 0).all()


def test_a_known_temperature_is_recovered():
    cal = fit_calibration(*simulated(2, 0))
    assert cal.method == ("temperature",) * 12 and (cal.intercept == 0).all()
    np.testing.assert_allclose(cal.slope, 0.5, atol=0.1)
    assert cal.slope.mean() == pytest.approx(0.5, abs=0.02)


def test_a_known_slope_and_intercept_are_recovered():
    cal = fit_calibration(*simulated(1.5, 2))
    assert cal.method == ("platt",) * 12
    assert cal.slope.mean() == pytest.approx(1 / 1.5, abs=0.03)
    assert cal.intercept.mean() == pytest.approx(-2 / 1.5, abs=0.1)


def test_held_out_losses_are_near_those_of_the_true_map_and_below_those_of_none():
    targets, probs, patients, names = simulated(2, 0)
    cal = fit_calibration(targets, probs, patients, names)
    truth = [log_loss(y, expit(logit(p) / 2)) for y, p in zip(targets.T, probs.T, strict=True)]
    np.testing.assert_allclose(cal.log_loss[:, 1], truth, atol=0.004)
    assert (cal.log_loss[:, 0] > cal.log_loss[:, 1]).all() and (
        cal.log_loss[:, 2] < cal.log_loss[:, 0]
    ).all()
    np.testing.assert_allclose(
        cal.log_loss[:, 0],
        [log_loss(y, p) for y, p in zip(targets.T, probs.T, strict=True)],
        atol=1e-12,
    )


def test_a_platt_map_equals_scikit_learn_on_smoothed_targets():
    targets, probs, patients, names = simulated(1.5, 2, findings=1)
    y, z = targets[:, 0], logit(probs[:, 0])
    positives, negatives = y.sum(), (1 - y).sum()
    wanted = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    model.fit(
        np.tile(z, 2)[:, None], np.repeat([1, 0], len(z)), np.concatenate([wanted, 1 - wanted])
    )
    cal = fit_calibration(targets, probs, patients, names)
    assert cal.slope[0] == pytest.approx(model.coef_[0, 0], abs=1e-4)
    assert cal.intercept[0] == pytest.approx(model.intercept_[0], abs=1e-4)


def test_a_temperature_equals_a_search_along_the_line():
    targets, probs, patients, names = simulated(2, 0, findings=1)
    y, z = targets[:, 0], logit(probs[:, 0])
    wanted = np.where(y == 1, (y.sum() + 1) / (y.sum() + 2), 1 / ((1 - y).sum() + 2))
    found = minimize(
        lambda a: np.mean(np.logaddexp(0, a * z) - wanted * a * z), 1.0, method="BFGS", tol=1e-10
    )
    assert fit_calibration(targets, probs, patients, names).slope[0] == pytest.approx(
        found.x[0], abs=1e-6
    )


def test_classes_that_separate_stay_finite():
    y = np.repeat([0, 1], [200, 40])
    cal = one(y, np.where(y == 1, 0.6, 0.4) + np.linspace(0, 0.1, 240))
    assert np.isfinite([*cal.slope, *cal.intercept, *cal.log_loss[0]]).all()
    y = np.repeat([0, 1], [2000, 400])
    cal = one(y, np.where(y == 1, 0.9999999, 1e-7))  # as sure as it can be
    assert np.isfinite([*cal.slope, *cal.intercept, *cal.log_loss[0]]).all()


def test_too_few_images_of_a_class_is_none():
    rng = np.random.default_rng(0)
    for positives, tried in ((9, False), (10, True)):
        y = np.repeat([0, 1], [300, positives])
        p = expit(4 * (rng.normal(size=len(y)) + y))
        for labels, probs in ((y, p), (1 - y, 1 - p)):
            cal = one(labels, probs)
            assert np.isfinite(cal.log_loss).all() == tried
            assert tried or (cal.method, cal.slope[0], cal.intercept[0]) == (("none",), 1, 0)


def test_positives_of_too_few_patients_is_none():
    y = np.repeat([0, 1], [300, 40])
    p = expit(6 * (np.random.default_rng(0).normal(size=340) + y))
    for last, tried in ((4, False), (5, True)):
        patients = np.concatenate([np.arange(300), 1000 + np.arange(40) % last])
        assert np.isfinite(one(y, p, patients).log_loss).all() == tried


@pytest.mark.parametrize(
    "y", [np.zeros(50), np.ones(50), np.full(50, np.nan)], ids=["absent", "present", "unknown"]
)
def test_one_class_or_nothing_known_is_none(y):
    cal = one(y, np.linspace(0.1, 0.9, 50))
    assert (
        cal.method == ("none",)
        and np.isnan(cal.log_loss).all()
        and cal.positives[0] == (y == 1).sum()
    )


def test_equal_probabilities_are_left_alone():
    assert one(np.repeat([0, 1], 50), np.full(100, 0.2)).method == ("none",)


def test_a_falling_map_is_refused():
    targets, probs, patients, names = simulated(1, 0, findings=3)
    cal = fit_calibration(targets, 1 - probs, patients, names)
    assert (
        cal.log_loss[:, 2] < cal.log_loss[:, 0] - 0.1
    ).all()  # Platt with a negative slope would be far better
    assert (cal.slope > 0).all() and "platt" not in cal.method


def test_of_maps_too_steep_to_keep_the_order_the_steepest_that_keeps_it_is_taken():
    """Probabilities pressed together to a third of their logits, as losses with focus do."""
    rng = np.random.default_rng(0)
    z = rng.normal(-1, 1.5, 4000)
    y = (rng.random(4000) < expit(z)).astype(float)
    maps = fit_calibration(y[:, None], expit(z / 4)[:, None], np.arange(4000), ["Mass"])
    slope, intercept = maps.slope[0], maps.intercept[0]
    assert 1.8 < slope < 4 and keeps_order(slope, intercept)
    assert not keeps_order(slope + 0.01, intercept)
    assert maps.log_loss[0, 2] < 0.9 * maps.log_loss[0, 0]


def test_images_not_annotated_change_nothing():
    targets, probs, patients, names = simulated(2, 1, findings=2)
    more = np.vstack([targets, np.full((300, 2), np.nan)]), np.vstack([probs, probs[:300]])
    ours, theirs = (
        fit_calibration(targets, probs, patients, names),
        fit_calibration(*more, np.append(patients, np.full(300, 99)), names),
    )
    assert ours.method == theirs.method
    for name in ("slope", "intercept", "log_loss", "positives"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_a_finding_does_not_depend_on_the_others():
    targets, probs, patients, names = simulated(2, 0, findings=3)
    alone = fit_calibration(targets[:, 1:2], probs[:, 1:2], patients, names[1:2])
    together = fit_calibration(targets, probs, patients, names)
    assert alone.slope[0] == together.slope[1] and (alone.log_loss[0] == together.log_loss[1]).all()


def test_the_same_seed_deals_the_same_folds_and_another_does_not():
    arguments = simulated(2, 1, findings=2)
    losses = [fit_calibration(*arguments, seed=seed).log_loss[:, 1:] for seed in (0, 0, 1)]
    assert (losses[0] == losses[1]).all() and (losses[0] != losses[2]).all()


def test_no_patient_is_in_two_folds_and_folds_share_positives_evenly():
    rng = np.random.default_rng(0)
    codes = rng.integers(100, size=600)
    y = (rng.random(600) < 0.1).astype(float)
    fold = calibration._deal(y, codes, 5, seed=0)
    assert all(len(set(fold[codes == code])) == 1 for code in set(codes))
    positive_patients = [len(set(codes[(fold == k) & (y == 1)])) for k in range(5)]
    assert max(positive_patients) - min(positive_patients) <= 1
    patients = [len(set(codes[fold == k])) for k in range(5)]
    assert max(patients) - min(patients) <= 1


def test_images_are_held_out_with_their_patient():
    """40 images of a patient, all alike: dealt by image, the richer maps would know the patient and
    win."""
    rng = np.random.default_rng(3)
    y, p = (
        np.repeat(rng.random(24) < 0.5, 40).astype(float),
        np.repeat(rng.uniform(0.4, 0.6, 24), 40),
    )
    patients = np.repeat(np.arange(24), 40)
    by_patient, by_image = one(y, p, patients), one(y, p)
    assert by_patient.log_loss[0, 2] > by_image.log_loss[0, 2] + 0.005
    assert by_patient.method == ("none",)


def test_the_standard_error_is_that_over_patients():
    rng = np.random.default_rng(0)
    gain, codes = rng.normal(0.05, 1, 400), np.arange(400)
    error = gain.std(ddof=1) / 20
    assert calibration._clearly_positive(gain - gain.mean() + 1.001 * error, codes)
    assert not calibration._clearly_positive(gain - gain.mean() + 0.999 * error, codes)
    copies = np.tile(
        gain - gain.mean() + 1.001 * error, 10
    )  # ten alike images of each patient tell no more
    assert calibration._clearly_positive(copies, np.tile(codes, 10))
    assert not calibration._clearly_positive(copies - 0.002 * error, np.tile(codes, 10))
    assert not calibration._clearly_positive(np.zeros(10), np.arange(10))


def test_bad_input_is_refused_in_a_sentence():
    targets, probs, patients, names = simulated(1, 0, images=30, findings=1)
    with pytest.raises(ValueError, match="folds must be at least 2, to hold one out; got 1"):
        fit_calibration(targets, probs, patients, names, folds=1)
    with pytest.raises(ValueError, match="one patient for each of the 30 images; got 29"):
        fit_calibration(targets, probs, patients[1:], names)
    with pytest.raises(ValueError, match="apply the sigmoid first"):
        fit_calibration(targets, logit(probs), patients, names)


# ---- applying a map


def test_a_map_is_a_line_in_logits():
    cal = with_maps((0.5, -1), (1.2, 0.3))
    probs = np.array([[0.1, 0.9], [0.5, 0.5]])
    odds = probs / (1 - probs)
    odds = odds ** [0.5, 1.2] * np.exp([-1, 0.3])
    np.testing.assert_allclose(cal.apply(probs), odds / (1 + odds), rtol=1e-12)


def test_auroc_does_not_change():
    targets, probs, patients, names = simulated(2, 1)
    cal = fit_calibration(targets, probs, patients, names)
    assert "none" not in cal.method
    probs = probs.round(2)  # with ties, 0 and 1
    for y, before, after in zip(targets.T, probs.T, cal.apply(probs).T, strict=True):
        assert (
            auroc(y, after) == auroc(y, before) == pytest.approx(roc_auc_score(y, after), abs=1e-12)
        )


@pytest.mark.parametrize(
    "line", [(1, 0), (0.01, 0), (0.3, 8), (0.5, -30), (1.9, 0), (1.7, 2.5), (2, -5)], ids=str
)
def test_what_single_precision_distinguishes_stays_distinct(line):
    assert keeps_order(*line)
    rng = np.random.default_rng(0)
    low = np.nextafter(0, 1, dtype=np.float32) * np.arange(
        50, dtype=np.float32
    )  # 0 and the smallest numbers there are
    high = np.float32(1) - np.arange(50, dtype=np.float32) * np.float32(
        2**-24
    )  # 1 and the largest below
    some = rng.random(2000).astype(np.float32) ** rng.integers(1, 30, 2000).astype(np.float32)
    middle = np.float32(0.5) + np.arange(-50, 50, dtype=np.float32) * np.float32(2**-24)
    probs = np.unique(np.concatenate([low, high, some, np.nextafter(some, np.float32(1)), middle]))
    after = with_maps(line).apply(probs[:, None])[:, 0]
    assert (
        after.dtype == np.float64
        and (np.diff(after) > 0).all()
        and after[0] >= 0
        and after[-1] <= 1
    )


@pytest.mark.parametrize(
    "line", [(0, 0), (-1, 0), (3, 0), (1, 40), (1.5, 12), (np.nan, 0), (np.inf, 0)], ids=str
)
def test_a_map_that_would_lose_the_order_is_known(line):
    assert not keeps_order(*line)


def test_certainty_is_softened_too():
    after = with_maps((0.5, 0)).apply(np.float32([[0], [1]]))
    assert 0 < after[0, 0] < 1e-15 and 1 - 1e-7 < after[1, 0] < 1


def test_none_returns_the_very_numbers():
    probs = np.array([0, 1e-300, 0.1, 1 / 3, 1 - 1e-16, 1])
    cal = one(np.zeros(3), [0.1, 0.2, 0.3])
    assert (cal.apply(probs[:, None])[:, 0] == probs).all()


def test_a_threshold_goes_through_the_map_and_calls_the_same_images():
    targets, probs, patients, names = simulated(2, 1, findings=2)
    cal = fit_calibration(targets, probs, patients, names)
    threshold = probs[7]  # a probability that occurs
    assert ((probs >= threshold) == (cal.apply(probs) >= cal.apply(threshold))).all()


def test_apply_leaves_its_input_alone_and_refuses_what_does_not_fit():
    cal, probs = with_maps((0.5, 0), (0.5, 1)), np.full((3, 2), 0.3)
    cal.apply(probs)
    assert (probs == 0.3).all() and cal.apply(np.empty((0, 2))).shape == (0, 2)
    with pytest.raises(ValueError, match=r"probs must be \(..., 2\)"):
        cal.apply(probs[:, :1])
    for bad in (np.nan, -0.1, 1.1):
        with pytest.raises(ValueError, match="finite numbers from 0 to 1"):
            cal.apply([[0.5, bad]])


# ---- the card


def test_a_card_survives_json():
    targets, probs, patients, names = simulated(2, 0, findings=3)
    targets[:, 2] = 0
    cal = fit_calibration(targets, probs, patients, names)
    text = json.dumps(cal.as_card(), allow_nan=False)
    back = Calibration.from_card(json.loads(text))
    assert (back.findings, back.method) == (cal.findings, cal.method) and cal.method[2] == "none"
    for name in ("slope", "intercept", "log_loss", "positives"):
        np.testing.assert_array_equal(getattr(back, name), getattr(cal, name))
    assert (back.apply(probs) == cal.apply(probs)).all()


def test_a_card_names_the_losses_by_method():
    card = fit_calibration(*simulated(2, 0, findings=2)).as_card()
    assert list(card["held_out_log_loss"]) == ["none", "temperature", "platt"]
    assert card["method"] == ["temperature"] * 2 and card["findings"] == ["f0", "f1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slope": [-1.0, 1.0]}, "calibration of f0 is 'platt', slope -1.0"),
        ({"method": ["platt", "isotonic"]}, "calibration of f1 is 'isotonic'"),
        ({"intercept": [0.0]}, "needs 2 values everywhere"),
        ({"slope": None}, "lacks 'slope'"),
        ({"held_out_log_loss": {}}, "lacks 'none'"),
    ],
)
def test_a_broken_card_is_refused(change, message):
    card = with_maps((0.5, 0), (0.5, 1)).as_card() | change
    card = {name: value for name, value in card.items() if value is not None}
    with pytest.raises(CxrError, match=message):
        Calibration.from_card(card)


# ---- scores


@pytest.fixture
def scored():
    """targets (300, 4): NaN in the first, the third of one class, the last not annotated; probs
    (300, 4)."""
    rng = np.random.default_rng(1)
    probs = rng.random((300, 4)) ** 2
    targets = (rng.random((300, 4)) < probs).astype(float)
    targets[rng.random(300) < 0.3, 0] = np.nan
    targets[:, 2], targets[:, 3] = 0, np.nan
    return targets, probs, list("abcd")


def test_brier_and_log_loss_equal_scikit_learn(scored):
    table = calibration_scores(*scored)
    for j in range(3):
        kept = ~np.isnan(scored[0][:, j])
        y, p = scored[0][kept, j], scored[1][kept, j]
        assert table.loc[j, "brier"] == pytest.approx(brier_score_loss(y, p), abs=1e-12)
        assert table.loc[j, "brier_reference"] == pytest.approx(
            brier_score_loss(y, np.full(len(y), y.mean())), abs=1e-12
        )
        assert table.loc[j, "log_loss"] == pytest.approx(log_loss(y, p, labels=[0, 1]), abs=1e-12)
        assert table.loc[j, "positives"] == y.sum()


def test_log_loss_of_false_certainty_is_large_and_finite_as_scikit_learns():
    y, p = np.array([1.0, 0, 1]), np.array([0.0, 1, 1])
    assert calibration_scores(y[:, None], p[:, None], ["a"])["log_loss"][0] == pytest.approx(
        log_loss(y, p)
    )


def test_the_last_row_is_the_mean_of_what_is_known(scored):
    table = calibration_scores(*scored)
    columns = ["brier", "brier_reference", "ece", "log_loss"]
    assert list(table.columns) == ["finding", *columns, "positives"] and list(table["finding"]) == [
        *"abcd",
        "macro",
    ]
    assert table.loc[3, columns].isna().all() and table.loc[3, "positives"] == 0
    np.testing.assert_allclose(table.loc[4, columns].astype(float), table.loc[:2, columns].mean())
    assert table.loc[4, "positives"] == np.nansum(scored[0])


def test_the_table_has_the_scores_before_and_after(scored):
    targets, probs, names = scored
    table = calibration_table(targets, probs, probs / 2, names)
    pd.testing.assert_frame_equal(table.iloc[:, :6], calibration_scores(targets, probs, names))
    after = calibration_scores(targets, probs / 2, names)
    for name in ("brier", "ece", "log_loss"):
        pd.testing.assert_series_equal(table[f"{name}_calibrated"], after[name], check_names=False)


def test_ece_by_hand():
    p = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
    y = np.array([0.0, 0, 1, 1, 0, 1])
    predicted, observed, count = reliability(y, p, 3)
    np.testing.assert_allclose(predicted, [0.15, 0.45, 0.8])
    assert observed.tolist() == [0, 1, 0.5] and count.tolist() == [2, 2, 2]
    ece = calibration_scores(y[:, None], p[:, None], ["a"], bins=3)["ece"][0]
    assert ece == pytest.approx((0.15 + 0.55 + 0.3) / 3)


def test_ece_of_one_bin_is_the_error_of_the_mean(scored):
    y, p = scored[0][:, 1], scored[1][:, 1]
    assert calibration_scores(*scored, bins=1)["ece"][1] == pytest.approx(abs(y.mean() - p.mean()))


def test_ece_of_many_calibrated_images_is_small_and_of_shifted_ones_is_the_shift():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.1, 0.5, 60_000)
    y = (rng.random(60_000) < truth).astype(float)
    table = calibration_scores(
        np.stack([y, y], 1), np.stack([truth, truth + 0.3], 1), ["right", "shifted"]
    )
    assert table["ece"][0] < 0.01 and table["ece"][1] == pytest.approx(0.3, abs=0.01)


def test_bins_hold_equal_counts_where_nothing_ties():
    rng = np.random.default_rng(0)
    for size, bins in ((300, 15), (301, 15), (17, 5), (7, 7)):
        count = reliability(np.zeros(size), rng.permutation(size) / size, bins)[2]
        assert len(count) == bins and count.sum() == size and count.max() - count.min() <= 1


def test_equal_probabilities_stay_in_one_bin():
    p = np.repeat([0.1, 0.2, 0.3], [5, 90, 5])
    predicted, _, count = reliability(np.zeros(100), p, 10)
    np.testing.assert_allclose(predicted, [0.1, 0.2, 0.3])
    assert count.tolist() == [5, 90, 5]
    assert reliability(np.ones(30), np.full(30, 0.4), 15)[2].tolist() == [30]


def test_bins_do_not_depend_on_the_order_of_images(scored):
    y, p = scored[0][:, 1], scored[1][:, 1].round(1)
    order = np.random.default_rng(0).permutation(300)
    for ours, theirs in zip(reliability(y, p, 8), reliability(y[order], p[order], 8), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_more_bins_than_images_and_no_image_at_all():
    assert reliability([0, 1, np.nan], [0.2, 0.4, 0.5], 15)[2].tolist() == [1, 1]
    assert [len(part) for part in reliability(np.array([]), np.array([]), 15)] == [0, 0, 0]
    with pytest.raises(ValueError, match="bins must be at least 1; got 0"):
        reliability([0, 1], [0.2, 0.4], 0)


def test_calibration_lowers_the_loss_on_new_images():
    cal = fit_calibration(*simulated(2, 1, seed=0))
    targets, probs, _, names = simulated(2, 1, seed=1)
    before, after = (
        calibration_scores(targets, p, names).iloc[-1] for p in (probs, cal.apply(probs))
    )
    assert after["log_loss"] < before["log_loss"] - 0.03 and after["brier"] < before["brier"]
    assert after["ece"] < 0.6 * before["ece"]


# ---- diagrams


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_diagrams_are_drawn_without_a_warning_and_leave_no_figure_open(scored):
    targets, probs, names = scored
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for columns in ([3], [0, 1, 2, 3, 1, 1]):
            figure = plots_calibration.reliability_diagrams(
                targets[:, columns],
                probs[:, columns],
                probs[:, columns] ** 0.5,
                [names[j] for j in columns],
            )
            figure.draw_without_rendering()
        certain = plots_calibration.reliability_diagrams(targets, targets == 1, probs, names)
        certain.draw_without_rendering()
    assert plt.get_fignums() == []


def test_diagrams_of_phantoms_say_so(scored):
    targets, probs, names = scored
    stamped, plain = (
        texts(plots_calibration.reliability_diagrams(targets, probs, probs, names, phantom=flag))
        for flag in (True, False)
    )
    assert PHANTOM_NOTE in stamped and PHANTOM_NOTE not in plain


def test_a_panel_says_how_many_positives_and_how_the_error_changed(scored):
    targets, probs, names = scored
    after = probs.copy()
    after[:, 1] = probs[:, 1] / 2
    ece = [100 * calibration_scores(targets, p, names)["ece"] for p in (probs, after)]
    shown = texts(plots_calibration.reliability_diagrams(targets, probs, after, names))
    assert f"a (n={np.nansum(targets[:, 0]):.0f})\nECE {ece[0][0]:.2f} %, unchanged" in shown
    assert f"b (n={targets[:, 1].sum():.0f})\nECE {ece[0][1]:.2f} to {ece[1][1]:.2f} %" in shown
    assert "d (n=0)\nnot annotated" in shown


def test_points_stand_at_the_bins_and_empty_bins_on_the_floor():
    y, p = np.repeat([0.0, 1], [60, 15]), np.linspace(0.02, 0.9, 75)
    figure = plots_calibration.reliability_diagrams(y[:, None], p[:, None], p[:, None], ["a"])
    predicted, observed, _ = reliability(y, p, 3)  # 15 positives, five a bin
    assert observed.tolist() == [0, 0, 0.6]
    _, before, open_before, after, open_after = figure.axes[0].get_lines()
    for line, hollow in ((before, open_before), (after, open_after)):
        np.testing.assert_allclose(line.get_xdata(), predicted)
        np.testing.assert_allclose(line.get_ydata(), [np.nan, np.nan, 0.6])
        np.testing.assert_allclose(hollow.get_xdata(), predicted[:2])
        assert hollow.get_ydata().tolist() == [
            0.1,
            0.1,
        ]  # the power of ten below 0.16, the lowest bin
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"


def test_the_bars_are_wilsons():
    for k, n in ((0, 10), (10, 40), (1, 1500), (3, 3)):
        interval = binomtest(k, n).proportion_ci(0.95, "wilson")
        low, high = plots_calibration.wilson(np.array([k / n]), np.array([n]))
        assert (low[0], high[0]) == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_real_probabilities_mean_more_after_calibration_and_rank_as_before(published):
    targets, probs, patients = published
    patients = patients.to_numpy(int)
    val = np.isin(patients, np.random.default_rng(0).permutation(np.unique(patients))[::3])
    cal = fit_calibration(targets[val], probs[val], patients[val], FINDINGS)
    assert len(set(cal.method)) > 1
    after = cal.apply(probs)
    assert [auroc(*pair) for pair in zip(targets.T, probs.T, strict=True)] == [
        auroc(*pair) for pair in zip(targets.T, after.T, strict=True)
    ]
    scores = [calibration_scores(targets[~val], p[~val], FINDINGS).iloc[-1] for p in (probs, after)]
    for name in ("brier", "log_loss", "ece"):
        assert scores[1][name] < scores[0][name]


def test_soft_targets_calibrate_towards_themselves():
    rng = np.random.default_rng(0)
    shares = rng.integers(0, 4, (4000, 1)) / 3
    probs = expit(2 * logit(np.clip(shares, 0.05, 0.95)))  # too sure of themselves
    cal = fit_calibration(shares, probs, np.arange(4000), ["Mass"])
    before, after = (
        calibration_scores(shares, p, ["Mass"]).iloc[0] for p in (probs, cal.apply(probs))
    )
    assert after["log_loss"] < before["log_loss"] and cal.slope[0] < 1
    assert before["brier_reference"] == pytest.approx(shares.var())
    assert cal.positives[0] == (shares >= 0.5).sum()
