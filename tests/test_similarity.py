"""Linear CKA: limits, a value worked by hand, and the Gram matrices of its definition."""

import numpy as np
import pytest

from lib.metrics import linear_cka


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 6))


def test_activations_are_wholly_like_themselves(x):
    assert linear_cka(x, x) == pytest.approx(1, abs=1e-12)


def test_rotation_scale_and_shift_change_nothing(x):
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
    assert linear_cka(x, 1e-3 * x @ turn + 7) == pytest.approx(1, abs=1e-9)


def test_stretching_one_direction_changes_it(x):
    assert linear_cka(x, x * [100, 1, 1, 1, 1, 1]) < 0.9


def test_a_value_worked_by_hand():
    # centred: x (1, -1, 0, 0), y columns (1, -1, 0, 0) and (0, 0, 1, -1)
    x = np.array([[1.0], [-1], [0], [0]])
    y = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    # x'y = (2, 0), x'x = 2, y'y = diag(2, 2): 4 / (2 sqrt(8))
    assert linear_cka(x, y) == pytest.approx(1 / np.sqrt(2))


def test_columns_that_do_not_go_together_score_nothing():
    assert linear_cka([[1.0], [-1], [1], [-1]], [[1.0], [1], [-1], [-1]]) == 0


def test_it_is_the_normalised_hsic_of_the_gram_matrices(x):
    y = np.random.default_rng(2).normal(size=(40, 90)) + x[:, :1]

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        centre = np.eye(40) - 1 / 40
        return np.trace(k @ centre @ m @ centre) / 39**2

    k, m = x @ x.T, y @ y.T
    expected = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    assert linear_cka(x, y) == pytest.approx(expected, rel=1e-9)


def test_what_does_not_vary_has_no_likeness(x):
    assert np.isnan(linear_cka(x, np.full((40, 3), 0.1)))


def test_large_float32_activations_do_not_overflow(x):
    big = (x * 1e30).astype(np.float32)
    assert linear_cka(big, x) == pytest.approx(1, abs=1e-5)


def test_other_shapes_are_refused(x):
    with pytest.raises(ValueError, match="same N"):
        linear_cka(x, x[:-1])
