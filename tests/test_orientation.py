"""Whether a film lies on its side: drawn films, real films, and images that have no side."""

import numpy as np
import pytest
from PIL import Image

from lib.images import read_radiograph
from lib.images.orientation import mirror_symmetry, seems_sideways
from lib.phantoms import draw_phantom


def share_sideways(films: list[np.ndarray], quarter_turns: int) -> float:
    return float(np.mean([seems_sideways(np.rot90(film, quarter_turns)) for film in films]))


def test_drawn_films_are_noticed_on_either_side_and_never_upright():
    films = [draw_phantom(seed=3, film=number, size=64)[0] for number in range(40)]
    assert [share_sideways(films, turns) for turns in (0, 2)] == [0, 0]
    assert min(share_sideways(films, turns) for turns in (1, 3)) >= 0.95


def test_real_films_are_noticed_as_often_as_the_module_says(real_data):
    paths = sorted((real_data / "kaggle_sample" / "sample").rglob("*.png"))[:300]
    films = [np.asarray(Image.open(path).convert("L").resize((128, 128))) for path in paths]
    assert len(films) >= 100
    assert share_sideways(films, 0) <= 0.01 and share_sideways(films, 1) >= 0.95


def test_symmetry_is_found_beside_the_middle_and_is_none_in_a_flat_film():
    half = np.random.default_rng(0).random((32, 14))
    mirrored = np.concatenate([half, half[:, ::-1]], 1)
    assert mirror_symmetry(np.pad(mirrored, ((0, 0), (0, 4)))) == pytest.approx(1)
    assert mirror_symmetry(np.full((32, 32), 7.0)) == 0
    assert not seems_sideways(np.zeros((64, 64), np.uint8))


def test_who_gives_a_film_on_its_side_is_reported(tmp_path):
    film = draw_phantom(seed=3, film=1, size=256)[0]
    for turns, warned in ((0, False), (1, True)):
        Image.fromarray(np.rot90(film, turns)).save(tmp_path / "film.png")
        warnings = read_radiograph(tmp_path / "film.png", 64).warnings
        assert any("on its side" in warning for warning in warnings) == warned
