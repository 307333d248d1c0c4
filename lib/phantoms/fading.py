"""In: a chest, a finding, and which share of its sign is drawn. Out: a chest on the way from
healthy to that sign."""

from dataclasses import fields, replace

import numpy as np

from lib.phantoms.anatomy import Anatomy, Array, Chest
from lib.phantoms.signs import add_sign, reshape


def reshape_in_part(
    anatomy: Anatomy, finding: str, rng: np.random.Generator, strength: float, contrast: float
) -> Anatomy:
    """The share `contrast` of the way from `anatomy` to what `reshape` makes of it: every measure
    linearly."""
    whole = reshape(anatomy, finding, rng, strength)
    if contrast == 1 or whole is anatomy:
        return whole
    changes = {}
    for field in fields(Anatomy):
        start, end = (np.asarray(getattr(one, field.name)) for one in (anatomy, whole))
        if field.name != "seed":
            changes[field.name] = (start + contrast * (end - start)).tolist()
    return replace(anatomy, **changes | {"dome": tuple(changes["dome"])})


def add_in_part(
    chest: Chest, finding: str, rng: np.random.Generator, strength: float, contrast: float
) -> Array | None:
    """`add_sign` with only the share `contrast` of what it adds to opacity and takes from the
    vessels; the same region."""
    opacity, markings = chest.opacity, chest.markings
    region = add_sign(chest, finding, rng, strength)
    if contrast != 1:
        chest.opacity = opacity + contrast * (chest.opacity - opacity)
        chest.markings = markings + contrast * (chest.markings - markings)
    return region
