"""In: the number of a chest and the findings to draw. Out: all its films, each with one thing
changed, and the boxes of its signs."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lib.examination.nuisances import NUISANCES, plain_plan
from lib.phantoms.draw import (
    BOX_GRID,
    FilmPlan,
    Sign,
    draw_shadow,
    person_vessels,
    plan_film,
)
from lib.phantoms.film import expose

STRENGTH = 0.7
"""How large and plain the sign is, from 0 to 1, where nothing else is said."""
CONTRASTS = (0.25, 0.5, 0.75)
"""Shares of the sign of STRENGTH that are drawn as well: the same size, fainter."""
STRENGTHS = (0.35, 1.0)
"""The sign smaller and larger, which makes it fainter and plainer too."""
MOVABLE = (
    "Atelectasis",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Pleural_Thickening",
)
"""The findings that have more than one place; the others have one, or take both lungs."""
_TRIES, _OVERLAP, _BOX_SIZE = 6, 0.1, 64
_PEOPLE = 9  # keeps these people apart from those of any set of phantoms


class FilmKey(NamedTuple):
    """A film: the finding whose sign it shows ("" for none), and what else is changed ("" for
    nothing)."""

    sign: str
    change: str


Place = tuple[float, float, float, float]
"""A box: left, top, width, height, as shares of the sides."""


@dataclass(frozen=True)
class Films:
    """One chest: its films (K, S, S) uint8 with their keys (K,), and the boxes of its signs where
    they can be boxed.

    `moved` holds the box of the sign elsewhere; a sign that has no other place, or whose other
    places overlap, has none.
    """

    keys: tuple[FilmKey, ...]
    pixels: np.ndarray
    boxes: dict[str, Place]
    moved: dict[str, Place]


def contrast_name(contrast: float) -> str:
    """The change of a film whose sign is fainter."""
    return f"contrast {contrast:g}"


def strength_name(strength: float) -> str:
    """The change of a film whose sign is smaller or larger."""
    return f"strength {strength:g}"


def draw_chest(number: int, seed: int, findings: tuple[str, ...], size: int) -> Films:
    """All films of one chest, at size x size pixels: without a sign, and with the sign of each of
    `findings`; each of these with every nuisance; and each sign fainter, smaller, larger and
    elsewhere.

    The same number and seed are the same chest, with the same places of tags and devices, at any
    size.
    """
    rng = np.random.default_rng([seed, number, _PEOPLE, 1])
    who = {"age": int(rng.integers(25, 85)), "sex": "FM"[number % 2]}
    plan = plain_plan(plan_film(seed=(seed, number, _PEOPLE), **who))
    vessels = person_vessels(plan, size)
    changed = {
        one.name: one.change(plan, np.random.default_rng([seed, number, _PEOPLE, 2 + i]))
        for i, one in enumerate(NUISANCES)
    }
    keys: list[FilmKey] = []
    pixels: list[np.ndarray] = []
    boxes: dict[str, Place] = {}
    moved: dict[str, Place] = {}

    def add(sign: str, change: str, film: FilmPlan, shadow: np.ndarray) -> None:
        keys.append(FilmKey(sign, change))
        pixels.append(expose(shadow, film.technique, size))

    for name in ("", *findings):
        signs = [Sign(name, STRENGTH)] if name else []
        shadow, found = draw_shadow(plan, signs, size, vessels)
        boxes |= {finding: _place(box) for finding, *box in found}
        add(name, "", plan, shadow)
        for change, film in changed.items():
            body = film.anatomy is plan.anatomy
            add(name, change, film, shadow if body else draw_shadow(film, signs, size, vessels)[0])
    for name in findings:
        variants = {contrast_name(c): Sign(name, STRENGTH, c) for c in CONTRASTS}
        variants |= {strength_name(s): Sign(name, s) for s in STRENGTHS}
        other = _elsewhere(plan, name, boxes.get(name))
        variants["moved"] = other or Sign(name, STRENGTH)
        for change, sign in variants.items():
            shadow, found = draw_shadow(plan, [sign], size, vessels)
            add(name, change, plan, shadow)
            if change == "moved" and other:
                moved |= {finding: _place(box) for finding, *box in found}
    return Films(tuple(keys), np.stack(pixels), boxes, moved)


def _place(box: list[float]) -> Place:
    left, top, width, height = (value / BOX_GRID for value in box)
    return left, top, width, height


def _elsewhere(plan: FilmPlan, finding: str, box: Place | None) -> Sign | None:
    """The sign at another place whose box hardly overlaps `box`; None where six tries find none."""
    if finding not in MOVABLE or box is None:
        return None
    vessels = np.zeros((_BOX_SIZE, _BOX_SIZE), np.float32)  # a box does not depend on them
    for variant in range(1, _TRIES + 1):
        sign = Sign(finding, STRENGTH, variant=variant)
        found = draw_shadow(plan, [sign], _BOX_SIZE, vessels)[1]
        if found and overlap(box, _place(list(found[0][1:]))) <= _OVERLAP:
            return sign
    return None


def overlap(one: Place, other: Place) -> float:
    """The area that two boxes share, as a share of the smaller one's."""
    sides = [
        max(0.0, min(one[i] + one[i + 2], other[i] + other[i + 2]) - max(one[i], other[i]))
        for i in (0, 1)
    ]
    return sides[0] * sides[1] / min(one[2] * one[3], other[2] * other[3])
