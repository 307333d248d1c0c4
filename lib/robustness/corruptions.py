"""In: films (B, S, S) uint8 and their ids. Out: the same films, corrupted at one of five strengths.

The idea, kinds of damage at five strengths each, is that of Hendrycks and Dietterich (2019,
"Benchmarking neural network robustness to common corruptions and perturbations"). The kinds and
strengths here are what happens to chest films: they are turned, washed out, noisy, compressed,
blurred, small, stored inverted, or marked.

What is drawn by chance (the side that a film is turned to, its noise, its marker, whether it is
inverted) depends on the film's id, the corruption and a seed alone: all models see the same
pixels, in whatever batches and order, and a higher strength does more of the same to a film.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

CORRUPTION_VERSION = 1
"""Increase this when a film, strength and seed would give other pixels: answers are then computed
again."""
STEPS = 5

LETTERS = {
    "L": ("X....", "X....", "X....", "X....", "X....", "X....", "XXXXX"),
    "R": ("XXXX.", "X...X", "X...X", "XXXX.", "X.X..", "X..X.", "X...X"),
}
MARGIN = 0.03  # of the side, between a marker and the film's edge

Chances = np.ndarray
"""(B,) uint64: what chance gives each film."""


@dataclass(frozen=True)
class Corruption:
    """One kind of damage. unit: of its five `settings`, the mildest first; apply: (films, chances,
    setting) -> films."""

    name: str
    unit: str
    settings: tuple[float, ...]
    apply: Callable[[np.ndarray, Chances, float], np.ndarray]


def corrupt(
    films: np.ndarray, ids: Sequence[str], name: str, strength: int, seed: int = 0
) -> np.ndarray:
    """Films (B, S, S) uint8, whose image ids are `ids`, with a corruption of CORRUPTIONS at strength
    0 (unchanged) to 5: (B, S, S) uint8.

    Raises ValueError where there is no such strength, or ids are not one per film.
    """
    if not 0 <= strength <= STEPS or len(ids) != len(films):
        raise ValueError(f"strength {strength} of 0 to {STEPS}; {len(ids)} ids, {len(films)} films")
    if strength == 0:
        return films
    kind = CORRUPTIONS[name]
    return kind.apply(films, _chances(ids, name, seed), kind.settings[strength - 1])


def _chances(ids: Sequence[str], name: str, seed: int) -> Chances:
    digests = [blake2b(f"{seed}\0{name}\0{one}".encode(), digest_size=8).digest() for one in ids]
    return np.frombuffer(b"".join(digests), dtype="<u8")


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def _rotate(films: np.ndarray, chances: Chances, degrees: float) -> np.ndarray:
    """Around the middle, half of the films to either side, with black corners."""
    turned = [
        Image.fromarray(film).rotate(
            degrees if chance % 2 else -degrees, Image.Resampling.BILINEAR, fillcolor=0
        )
        for film, chance in zip(films, chances.tolist(), strict=True)
    ]
    return _stack(turned, films)


def _contrast(films: np.ndarray, chances: Chances, factor: float) -> np.ndarray:
    """Every pixel nearer to its own film's mean."""
    means = films.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)[:, None, None]
    return _bytes(means + np.float32(factor) * (films - means))


def _noise(films: np.ndarray, chances: Chances, sd: float) -> np.ndarray:
    """Normal noise, independent in every pixel."""
    noisy = np.empty_like(films)
    for film, chance, target in zip(films, chances.tolist(), noisy, strict=True):
        noise = np.random.default_rng(chance).standard_normal(film.shape, np.float32)
        target[...] = _bytes(film + np.float32(sd) * noise)
    return noisy


def _jpeg(films: np.ndarray, chances: Chances, quality: float) -> np.ndarray:
    made = []
    for film in films:
        file = io.BytesIO()
        Image.fromarray(film).save(file, "JPEG", quality=int(quality))
        made.append(Image.open(file))
    return _stack(made, films)


def _blur(films: np.ndarray, chances: Chances, share: float) -> np.ndarray:
    """A normal kernel; its sigma is a share of the side."""
    sigma = share * films.shape[1]
    return _bytes(gaussian_filter(films.astype(np.float32), (0, sigma, sigma), mode="nearest"))


def _resolution(films: np.ndarray, chances: Chances, factor: float) -> np.ndarray:
    """Fewer pixels, each the mean of what it covers, then bilinear to the old size."""
    side = films.shape[1]
    small = max(1, round(factor * side))
    made = [
        Image.fromarray(film)
        .resize((small, small), Image.Resampling.BOX)
        .resize((side, side), Image.Resampling.BILINEAR)
        for film in films
    ]
    return _stack(made, films)


def _invert(films: np.ndarray, chances: Chances, share: float) -> np.ndarray:
    """So large a share of films with black and white exchanged, as where a header is ignored; who is
    among fewer, is among more. A blend with the inverted film would have nothing left half-way."""
    chosen = chances < share * 2.0**64
    return np.where(chosen[:, None, None], 255 - films, films)


def _mark(films: np.ndarray, chances: Chances, share: float) -> np.ndarray:
    """A white L or R in the upper left or upper right corner, so high a share of the side."""
    side = films.shape[1]
    height, margin = max(1, round(share * side)), round(MARGIN * side)
    width = max(1, round(height * 5 / 7))
    marked = films.copy()
    for i, letter in enumerate(LETTERS.values()):
        glyph = np.array([[mark == "X" for mark in line] for line in letter])
        down, across = ((2 * np.arange(n) + 1) / (2 * n) for n in (height, width))
        glyph = glyph[(7 * down).astype(int)][:, (5 * across).astype(int)]
        for right in (0, 1):
            left = side - margin - width if right else margin
            mine = np.flatnonzero((chances % 2 == i) & (chances // 2 % 2 == right))
            place = marked[mine, margin : margin + height, left : left + width]
            place[:, glyph] = 255
            marked[mine, margin : margin + height, left : left + width] = place
    return marked


def _stack(made: list[Image.Image], films: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(one) for one in made]) if made else films


CORRUPTIONS = {
    kind.name: kind
    for kind in (
        Corruption("rotation", "degrees", (5, 10, 15, 20, 30), _rotate),
        Corruption("contrast", "times the contrast", (0.7, 0.5, 0.3, 0.2, 0.1), _contrast),
        Corruption("noise", "grey levels (sd)", (8, 16, 24, 36, 48), _noise),
        Corruption("jpeg", "JPEG quality", (50, 25, 15, 8, 4), _jpeg),
        Corruption("blur", "sigma, share of side", (0.005, 0.01, 0.015, 0.025, 0.04), _blur),
        Corruption("resolution", "times the side", (0.5, 0.35, 0.25, 0.18, 0.125), _resolution),
        Corruption("inversion", "share of films inverted", (0.2, 0.4, 0.6, 0.8, 1.0), _invert),
        Corruption("marker", "height, share of side", (0.08, 0.12, 0.16, 0.24, 0.32), _mark),
    )
}
VARIANTS = (
    ("none", 0),
    *((name, step) for name in CORRUPTIONS for step in range(1, STEPS + 1)),
)
"""(corruption, strength) of everything that a model answers: the clean films, then all others."""
