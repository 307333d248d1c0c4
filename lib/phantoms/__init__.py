"""Synthetic chest images in the layouts of the real ones."""

from typing import Any

from lib.phantoms.draw import (
    BOX_GRID,
    FilmPlan,
    Sign,
    as_portable,
    draw_phantom,
    draw_shadow,
    person_vessels,
    plan_film,
)
from lib.phantoms.film import (
    PACEMAKER,
    Stroke,
    Technique,
    electrode,
    expose,
    letter_l,
    tube,
)

__all__ = [
    "BOX_GRID",
    "PACEMAKER",
    "FilmPlan",
    "Sign",
    "Stroke",
    "Technique",
    "as_portable",
    "draw_phantom",
    "draw_shadow",
    "electrode",
    "expose",
    "letter_l",
    "person_vessels",
    "plan_film",
    "tube",
    "write_phantoms",
]


def __getattr__(name: str) -> Any:
    """Imports `write_phantoms` when it is used: it needs pydantic, which the app's server does
    without."""
    if name == "write_phantoms":
        from lib.phantoms.write import write_phantoms

        return write_phantoms
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
