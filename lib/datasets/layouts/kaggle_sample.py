"""Kaggle's random sample of ChestX-ray14: sample_labels.csv, with the NIH's columns."""

from pathlib import Path

from lib.datasets.layouts.listing import NIH, Layout, Listing, present, read_image_table
from lib.datasets.layouts.nih import COLUMNS


def find(folder: Path) -> list[Path]:
    """The sample's table, as it is or in the folder of Kaggle's archive."""
    return present(folder, "sample_labels.csv", "sample/sample_labels.csv")


def read(folder: Path, table: Path) -> Listing:
    """Every row of the table, with the images beside it."""
    return read_image_table(folder, table, COLUMNS)


LAYOUT = Layout("Kaggle sample", "sample_labels.csv", find, read, NIH)
