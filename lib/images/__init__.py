"""Image files of all kinds -> grey pixels; NumPy and Pillow only."""

from lib.images.read import (
    Radiograph,
    read_radiograph,
)

__all__ = ["Radiograph", "read_radiograph"]
