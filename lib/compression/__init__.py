"""Smaller models, and what they lose: int8 judged on images that did not choose its recipe."""

from lib.compression.compare import (
    compare_exports,
)

__all__ = ["compare_exports"]
