"""In: a model and the number of chests. Out: what it answers to all films of each chest."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lib.examination.chests import FilmKey, Films, draw_chest
from lib.examination.heat import heat_rows
from lib.inference.predictor import Predictor

_BATCH = 32


@dataclass(frozen=True)
class Answers:
    """What a model answers to all films of N chests; K films each, F findings.

    keys: (K,); logits, probs: (N, K, F); unlikeness: (N, K), NaN where the card has no statistics;
    heat: a row per chest and finding, of `heat_rows`.
    """

    findings: tuple[str, ...]
    keys: tuple[FilmKey, ...]
    logits: np.ndarray
    probs: np.ndarray
    unlikeness: np.ndarray
    heat: pd.DataFrame

    def of(self, finding: str, key: FilmKey, values: str = "logits") -> np.ndarray:
        """The logits (or `values="probs"`) of one finding for one film of every chest: (N,)."""
        return getattr(self, values)[:, self.keys.index(key), self.findings.index(finding)]


def ask(
    predictor: Predictor, drawn: tuple[str, ...], chests: int, seed: int, progress: bool = False
) -> Answers:
    """The answers of a model to all films of `chests` chests, with the signs of the findings
    `drawn`."""
    parts: list[tuple[np.ndarray, ...]] = []
    heat: list[dict[str, Any]] = []
    keys: tuple[FilmKey, ...] = ()
    bar = tqdm(range(chests), desc="examining", unit="chest", disable=not progress)
    for number in bar:
        films = draw_chest(number, seed, drawn, predictor.image_size)
        keys = films.keys
        numbers, maps = _predicted(predictor, films)
        parts.append(numbers)
        heat += heat_rows(number, films, maps)
    logits, probs, unlikeness = (np.stack(part) for part in zip(*parts, strict=True))
    table = pd.DataFrame(heat)
    return Answers(predictor.findings, keys, logits, probs, unlikeness, table)


def _predicted(
    predictor: Predictor, films: Films
) -> tuple[tuple[np.ndarray, ...], dict[FilmKey, np.ndarray]]:
    """Logits (K, F), probabilities (K, F) and unlikeness (K,) of a chest's films; and the heat maps
    (h, w) by key: each finding's own, without its sign, with it, and with it moved."""
    pixels, findings = films.pixels, predictor.findings
    batches = [predictor.predict(pixels[i : i + _BATCH]) for i in range(0, len(pixels), _BATCH)]
    heat = np.concatenate([one.heatmaps for one in batches])  # (K, F, h, w)
    rows = {key: row for row, key in enumerate(films.keys)}
    maps = {}
    for sign in films.boxes:
        column = findings.index(sign)
        maps[FilmKey(sign, "without")] = heat[rows[FilmKey("", "")], column]
        maps[FilmKey(sign, "")] = heat[rows[FilmKey(sign, "")], column]
        maps[FilmKey(sign, "moved")] = heat[rows[FilmKey(sign, "moved")], column]
    numbers = tuple(
        np.concatenate([getattr(one, name) for one in batches]).astype(np.float64)
        for name in ("logits", "probs", "unlikeness")
    )
    return numbers, maps
