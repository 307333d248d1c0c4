"""The challenge's two sets of NIH films: 14_train.csv for all findings, train.csv and test.csv for
one."""

from pathlib import Path

from lib.datasets.layouts.chexpert import is_table
from lib.datasets.layouts.listing import (
    NIH,
    Layout,
    Listing,
    note_unlisted,
    present,
    read_image_table,
    read_rows,
    scan,
)

COLUMNS = {"image": "imageID", "labels": "disease"}


def find_full(folder: Path) -> list[Path]:
    """The table of the set with all findings."""
    return present(folder, "14_train.csv")


def read_full(folder: Path, table: Path) -> Listing:
    """Every row of the table, with the images beside it."""
    return read_image_table(folder, table, COLUMNS)


def find_single(folder: Path) -> list[Path]:
    """The training table of the set with one finding; CheXpert's has the same name."""
    return [table for table in present(folder, "train.csv") if not is_table(table)]


def read_single(folder: Path, table: Path) -> Listing:
    """The rows of train.csv and test.csv, each with the images of its own folder."""
    listing = Listing("", ["train", "test"], [], complete=False)
    for part in ("train", "test"):
        if (path := folder / f"{part}.csv").is_file():
            optional = {"labels"} if part == "test" else set()
            rows = read_rows(path, COLUMNS, optional, listing.problems)
            files = scan([folder / part])
            for row in rows:
                row.official, row.path = part, files.get(row.image)
            listing.rows += rows
            note_unlisted(listing, files, [row.image for row in rows], path.name)
    return listing


FULL = Layout("challenge full set", "14_train.csv", find_full, read_full, NIH)
SINGLE = Layout("challenge single-finding set", "train.csv", find_single, read_single, NIH)
