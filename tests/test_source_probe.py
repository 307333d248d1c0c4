"""Whether the films of several data sets can be told apart."""

import made_layouts as made
import numpy as np
import pandas as pd
import pytest

from lib.config import FINDINGS
from lib.datasets import check_sources
from lib.datasets.source_probe import (
    PER_SOURCE,
    film_features,
    probe_sources,
    sample_sources,
    size_features,
    sources_text,
)


def films(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(30, 220, (count, 64, 64), dtype=np.uint8)


def probe(one: np.ndarray, other: np.ndarray) -> float:
    names = ["a"] * len(one) + ["b"] * len(other)
    people = [str(i // 2) for i in range(len(names))]
    return probe_sources(film_features(np.concatenate([one, other])), names, people)


def test_films_of_one_kind_cannot_be_told_apart():
    assert 0.3 < probe(films(80, 0), films(80, 1)) < 0.7


def test_black_borders_give_a_source_away():
    framed = films(80, 1)
    framed[:, :, :4] = 0
    assert probe(films(80, 0), framed) > 0.99


def test_the_size_of_the_files_gives_a_source_away():
    sizes = np.array([[1024, 1024]] * 40 + [[2500, 2048]] * 40)
    people = [str(i) for i in range(80)]
    assert probe_sources(size_features(sizes), ["a"] * 40 + ["b"] * 40, people) == 1


def test_three_sources_are_compared_each_with_the_others():
    shades = np.concatenate([films(40, i) // 4 + 40 * i for i in range(3)])
    people = [str(i) for i in range(120)]
    assert probe_sources(film_features(shades), np.repeat(["a", "b", "c"], 40), people) > 0.99


def test_with_few_patients_nothing_is_said():
    area = probe_sources(
        film_features(films(40, 0)), ["a"] * 35 + ["b"] * 5, list(map(str, range(40)))
    )
    assert np.isnan(area) and "too few patients" in sources_text(area, area, pd.DataFrame())


def test_a_sample_is_the_same_again_and_limited():
    images = [f"{i}.png" for i in range(PER_SOURCE + 50)]
    frame = pd.DataFrame({"image": images, "source": "a"})
    assert len(sample_sources(frame)) == PER_SOURCE
    assert sample_sources(frame).equals(sample_sources(frame.iloc[::-1]))


@pytest.mark.parametrize("area, words", [(0.99, "a model can cheat"), (0.6, "gains little")])
def test_what_it_means_is_said(area, words):
    frame = pd.DataFrame({"source": ["a", "a", "b", "b"]})
    frame[list(FINDINGS)] = np.nan
    frame["Effusion"] = [1.0, 0.0, 1.0, 1.0]
    text = sources_text(area, 0.5, frame)
    assert words in text
    assert ("Effusion is in 50% in a, 100% in b" in text) == (area > 0.9)


def test_two_data_sets_are_compared_from_their_folders(tmp_path):
    rsna, padchest = made.write_rsna(tmp_path / "rsna"), made.write_padchest(tmp_path / "padchest")
    text = check_sources([rsna, padchest], workers=1, progress=False)
    assert text.startswith("sources: told apart by 16 x 16 px and borders with AUROC")
    assert check_sources([rsna], workers=1, progress=False) == ""


def test_real_films_of_adults_and_of_children_are_told_apart(real_data):
    folders = [real_data / "real" / name for name in ("dataset_full", "dataset_pneumonia")]
    assert "a model can cheat" in check_sources(folders, workers=1, progress=False)
