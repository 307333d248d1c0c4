"""In: a table of labels, or a dataset folder. Out: image, patient and findings (1, 0, NaN) of every
row; no image is looked for."""

from pathlib import Path

import pandas as pd

from lib.config import FINDINGS
from lib.datasets.labels import parse_labels, targets_of
from lib.datasets.layouts import TABLES, Listing, Problem, Row, challenge, nih, read_listing
from lib.datasets.layouts.listing import read_rows, table_lines
from lib.datasets.tables import patient_of, problem_text
from lib.exceptions import DatasetError

COLUMNS = (nih.COLUMNS, challenge.COLUMNS)
"""Headings by which a table of another name is recognised."""


def read_labels(path: Path) -> pd.DataFrame:
    """The labels of a table in any layout that `layouts` knows, or of a dataset folder.

    Columns: image, patient (missing where neither table nor file name tells), and a float column per
    finding of FINDINGS: 1, 0, or NaN where it is not annotated. Images need not be there. Raises
    DatasetError where the table cannot be read, has labels that are no findings, or lists an image
    twice.
    """
    path = path.expanduser().absolute()
    if not path.exists():
        raise DatasetError(f"{path} is missing: name a table of labels or a dataset folder")
    listing = _listing(path)
    problems = [*listing.problems, *_problems(listing)]
    if problems:
        raise DatasetError(problem_text(path.name, problems, len(listing.rows)))
    frame = pd.DataFrame(targets_of(listing.rows, listing.complete), columns=list(FINDINGS))
    frame.insert(0, "image", [row.image for row in listing.rows])
    frame.insert(1, "patient", [patient_of(row.image, row.patient) for row in listing.rows])
    return frame[frame[list(FINDINGS)].notna().any(axis=1)].reset_index(drop=True)


def _listing(path: Path) -> Listing:
    """The rows of a folder, of a table that a layout finds in its folder, or of a table with the
    headings of one."""
    if path.is_dir():
        return read_listing(path)
    for layout in TABLES:
        if path in layout.find(path.parent):
            return layout.read(path.parent, path)
    header, _, _ = table_lines(path)
    for columns in COLUMNS:
        if {columns["image"], columns["labels"]} <= set(header):
            problems: list[Problem] = []
            rows = read_rows(path, columns, set(), problems)
            return Listing("", [], rows, complete=True, problems=problems)
    known = " or ".join(f"{columns['image']}, {columns['labels']}" for columns in COLUMNS)
    raise DatasetError(
        f"{path} is no table of labels of a known layout: it needs the columns {known}; its columns "
        f"are {', '.join(header)}"
    )


def _problems(listing: Listing) -> list[Problem]:
    """Rows without a name, with labels that are no findings, or of an image that is listed before."""
    found: list[Problem] = []
    seen: dict[str, Row] = {}
    for row in listing.rows:
        _, kind, detail = parse_labels(row.labels)
        first = seen.setdefault(row.image, row)
        if not row.image:
            kind, detail = "no image name", ""
        elif first is not row:
            kind, detail = "duplicate id", f"also in row {first.row}"
        if kind:
            found.append(Problem(row.table, row.row, row.image, kind, detail))
    return found
