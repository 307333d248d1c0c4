"""Synthetic chest images in the layouts of the real ones."""

from typing import Any

from lib.phantoms.draw import draw_phantom

__all__ = ["draw_phantom", "write_phantoms"]


def __getattr__(name: str) -> Any:
    """Imports `write_phantoms` when it is used: it needs pydantic, which the app's server does
    without."""
    if name == "write_phantoms":
        from lib.phantoms.write import write_phantoms

        return write_phantoms
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
