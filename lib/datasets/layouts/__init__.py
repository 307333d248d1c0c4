"""In: a dataset folder in any of LAYOUTS. Out: a `Listing`: every row that it lists, as text, and
the files found.

A layout is recognised by what is in the folder; one file each. Nothing is judged here but the
tables' own shape: `datasets.tables` checks the rows and turns them into numbers.
"""

from pathlib import Path

from lib.datasets.layouts import (
    challenge,
    chexpert,
    class_folders,
    kaggle_sample,
    medmnist,
    mimic,
    nih,
    padchest,
    rsna,
    vindr,
)
from lib.datasets.layouts.listing import (
    NIH,
    NIH_NAME,
    Layout,
    Listing,
    Problem,
    Row,
    as_text,
    canonical_finding,
)
from lib.exceptions import DatasetError

__all__ = [
    "NIH",
    "NIH_NAME",
    "Layout",
    "Listing",
    "Problem",
    "Row",
    "canonical_finding",
    "find_layout",
    "read_listing",
]

TABLES = (
    nih.LAYOUT,
    kaggle_sample.LAYOUT,
    challenge.FULL,
    challenge.SINGLE,
    chexpert.LAYOUT,
    mimic.LAYOUT,
    padchest.LAYOUT,
    vindr.LAYOUT,
    rsna.LAYOUT,
    medmnist.LAYOUT,
)
"""The layouts with a table, the one to use first where several fit."""


def find_layout(folder: Path) -> str:
    """The name of the layout of `folder`. Raises DatasetError, saying what was looked for, where it
    is none."""
    return _detect(folder)[0][0].name


def read_listing(folder: Path) -> Listing:
    """Everything that `folder` lists. Raises DatasetError where the folder, or a table, cannot be
    read at all."""
    (layout, table), *others = _detect(folder)
    listing = layout.read(folder, table)
    listing.layout, listing.population = layout.name, listing.population or layout.population
    if table != folder:
        listing.layout += f" ({table.relative_to(folder)})"
    listing.notes += [
        f"{table.name} is also there and was not read ({other.name})" for other, table in others
    ]
    return listing


def _detect(folder: Path) -> list[tuple[Layout, Path]]:
    """Every layout that fits, with its table, the one to use first."""
    if as_text(str(folder)) != str(folder):
        raise DatasetError(
            f"{as_text(str(folder))}: the path is not text in UTF-8; rename the folder."
        )
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: no such folder. Set data_root and data_dir to where the dataset folders are."
        )
    for layout in TABLES:
        if named := [path for path in folder.glob(layout.looks_for) if path.is_dir()]:
            raise DatasetError(
                f"{named[0]} is a folder, but a table of that name is expected; rename or remove it."
            )
    found = [(layout, table) for layout in TABLES for table in layout.find(folder)]
    if not found:
        found = [(class_folders.LAYOUT, table) for table in class_folders.LAYOUT.find(folder)]
    if not found:
        names = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        raise DatasetError(
            f"{folder}: no known layout. Looked for {', '.join(layout.looks_for for layout in TABLES)}, "
            f"or folders named after findings (NORMAL, PNEUMONIA, ...); found {names}."
        )
    sets = {layout.population: layout for layout, _ in reversed(found)}
    if len(sets) > 1:
        names = " and ".join(f"{layout.name} ({layout.looks_for})" for layout in sets.values())
        raise DatasetError(
            f"{folder}: holds several data sets, {names}; put each into a folder of its own."
        )
    return found
