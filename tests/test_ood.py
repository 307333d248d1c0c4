"""How unlike the training films an embedding is: by hand, against an independent formula, as JSON,
and light."""

import json
import subprocess
import sys

import numpy as np
import pytest

from lib.config import REPO_ROOT
from lib.inference.ood import COMPONENTS, fit_familiarity, unlikeness


def cloud(count: int, seed: int = 0, width: int = 6) -> np.ndarray:
    """Embeddings (count, width) that vary less and less from one direction to the next."""
    draws = np.random.default_rng(seed).normal(size=(count, width))
    return (draws / (1 + np.arange(width)) + 3).astype(np.float32)


def test_the_mean_of_the_training_films_is_the_most_familiar_of_all():
    train = cloud(100)
    statistics = fit_familiarity(train, cloud(50, 1))
    assert unlikeness(train.mean(0, keepdims=True), statistics)[0] == pytest.approx(0, abs=1e-3)


def test_over_the_training_films_the_mean_square_of_the_score_is_one():
    train = cloud(400, width=200)
    assert np.square(unlikeness(train, fit_familiarity(train, train))).mean() == pytest.approx(
        1, abs=1e-4
    )


def test_the_score_by_hand():
    # the training films stand at +-2 along the first axis and +-1 along the second; K = 1, so the
    # rest is the second
    train = np.tile(
        np.array([[2.0, 1.0], [-2.0, 1.0], [2.0, -1.0], [-2.0, -1.0]], np.float32), (10, 1)
    )
    statistics = fit_familiarity(train, train)
    asked = np.array([[2.0, 0.0], [0.0, 3.0], [4.0, 1.0], [0.0, 0.0]], np.float32)
    wanted = np.sqrt([1 / 2, 9 / 2, (4 + 1) / 2, 0])
    assert unlikeness(asked, statistics) == pytest.approx(wanted, abs=1e-3)


def test_the_score_is_the_mahalanobis_distance_of_probabilistic_pca():
    train, asked = cloud(300, width=40), cloud(20, 5, width=40) * 1.5
    statistics = fit_familiarity(train, train)
    centred = train - train.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(train))
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = len(values) // 2  # fewer than COMPONENTS: half of the directions
    assert kept < COMPONENTS
    weights = np.concatenate(
        [1 / (kept * values[:kept]), np.full(40 - kept, 1 / values[kept:].sum())]
    )
    wanted = np.sqrt((((asked - train.mean(0)) @ vectors) ** 2 @ weights) / 2)
    assert unlikeness(asked, statistics) == pytest.approx(wanted, rel=0.02)


def test_what_training_films_never_do_is_unlike_them_though_it_is_small():
    train = cloud(300)
    train[:, 5] = 3 + 1e-3 * np.random.default_rng(3).normal(size=300)
    statistics = fit_familiarity(
        train, cloud(0 + 300)[:100] * [1, 1, 1, 1, 1, 0] + [0, 0, 0, 0, 0, 3]
    )
    stranger = train[:1] + np.array([0, 0, 0, 0, 0, 0.9], np.float32)  # the first axis varies by 1
    assert (
        unlikeness(stranger, statistics)[0]
        > statistics["threshold"]
        > unlikeness(train[:1], statistics)[0]
    )


def test_the_threshold_lets_through_the_validation_films_but_for_one_in_two_hundred():
    val = cloud(2000, 1)
    statistics = fit_familiarity(cloud(400), val)
    assert (unlikeness(val, statistics) > statistics["threshold"]).mean() == pytest.approx(
        0.005, abs=5e-4
    )
    assert (
        statistics["quantiles"]["0.995"]
        == statistics["threshold"]
        > statistics["quantiles"]["0.5"]
        > 0
    )


def test_statistics_survive_json():
    statistics = fit_familiarity(cloud(100), cloud(50, 1))
    again = json.loads(json.dumps(statistics, allow_nan=False))
    assert again == statistics
    assert np.array_equal(unlikeness(cloud(9, 2), again), unlikeness(cloud(9, 2), statistics))


def test_an_embedding_that_is_not_finite_is_infinitely_unlike():
    statistics = fit_familiarity(cloud(100), cloud(50, 1))
    asked = cloud(3)
    asked[1, 0], asked[2, 3] = np.nan, np.inf
    score = unlikeness(asked, statistics)
    assert np.isfinite(score[0]) and np.isinf(score[1:]).all()


def test_embeddings_that_never_vary_have_statistics_too():
    same = np.ones((40, 6), np.float32)
    statistics = fit_familiarity(same, same)
    assert (
        unlikeness(same[:1], statistics)[0] == 0 and unlikeness(same[:1] + 1, statistics)[0] > 1e3
    )


def test_an_embedding_of_another_model_is_refused():
    with pytest.raises(
        ValueError, match=r"embeddings are \(1, 7\); the statistics are of \(B, 6\)"
    ):
        unlikeness(np.zeros((1, 7)), fit_familiarity(cloud(100), cloud(50, 1)))


def test_too_few_films_are_refused():
    with pytest.raises(ValueError, match="100 training and 19 validation images are too few"):
        fit_familiarity(cloud(100), cloud(19))


def test_it_needs_numpy_alone():
    code = "import sys, lib.inference.ood; sys.exit(bool({'torch', 'pandas', 'scipy', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT).returncode == 0
