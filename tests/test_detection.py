"""How well unlikeness tells spoilt images from usual ones."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lib.compression.detection import detection, spoilt

RNG = np.random.default_rng(1)
BRIGHT = np.linspace(0.3, 1, 12)[:, None, None]  # some brighter when inverted, some darker
FILMS = (RNG.integers(0, 256, (12, 8, 8)) * BRIGHT).astype(np.uint8)


def model(score):
    """A model whose unlikeness is score(images (B, S, S)) -> (B,)."""
    return SimpleNamespace(predict=lambda images: SimpleNamespace(unlikeness=score(images)))


def test_spoilt_images_have_the_shape_of_the_others_and_differ_from_them():
    for images in spoilt(FILMS).values():
        assert images.shape == FILMS.shape and images.dtype == np.uint8
        assert (images != FILMS).any(axis=(1, 2)).all()


def test_detection_is_the_mean_auroc_over_the_kinds():
    def brightness(images):
        return images.astype(float).mean(axis=(1, 2))

    usual = brightness(FILMS)
    expected = [
        roc_auc_score(np.repeat([0, 1], len(FILMS)), np.concatenate([usual, brightness(images)]))
        for images in spoilt(FILMS).values()
    ]
    value, low, high = detection(model(brightness), FILMS, np.arange(len(FILMS)))
    assert value == pytest.approx(np.mean(expected))
    assert low < value < high


def test_what_answers_all_alike_detects_nothing():
    found = detection(model(lambda images: np.ones(len(images))), FILMS, np.arange(12))
    assert found == (0.5, 0.5, 0.5)


def test_images_of_one_patient_are_resampled_together():
    def brightness(images):
        return images.astype(float).mean(axis=(1, 2))

    many = np.repeat(FILMS, 4, axis=0)
    together = detection(model(brightness), many, np.repeat(np.arange(12), 4))
    apart = detection(model(brightness), many, np.arange(48))
    assert together[0] == apart[0]
    assert together[2] - together[1] > 1.4 * (apart[2] - apart[1])


def test_without_statistics_there_is_no_number():
    found = detection(model(lambda images: np.full(len(images), np.nan)), FILMS, np.arange(12))
    assert np.isnan(found).all()
