"""Quantize models to int8, and judge them on images that did not choose the recipe."""

from lib.compression.compare import (
    compare_exports,
)

__all__ = ["compare_exports"]
