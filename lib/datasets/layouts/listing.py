"""In: tables and folders of images. Out: a `Listing`: every row, as text, and the files found.

What all layouts share: the row, how a table is read, how images are found beside it.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lib.config import FINDINGS, NO_FINDING
from lib.datasets.layouts.csv_text import check_columns, table_lines
from lib.exceptions import DatasetError

NIH = "nih"
"""The population of the NIH release and of every set that was drawn from it."""
NIH_NAME = re.compile(r"^(\d{8})_\d{3}\.(?:png|jpe?g)$", re.IGNORECASE)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
IMAGE_FOLDERS = ("images", "images_*/images", "images_*", "sample/images", "sample/sample/images")
_RENAMED = {"Patient Sex": "Patient Gender"}
"""Headings of the NIH's table of 2020 that its copies and older tables call otherwise."""
_NAMES = {name.lower().replace("_", " "): name for name in (*FINDINGS, NO_FINDING)} | {
    "infiltrate": "Infiltration",  # so written in BBox_List_2017.csv
    "normal": NO_FINDING,
}


@dataclass(slots=True)  # 112,120 of them
class Row:
    """One listed image, as text; None where the table has no such column or an empty cell."""

    table: str  # the table (or class folder) that lists it
    row: int  # line in that table, the header being 1; 0 for class folders
    image: str
    labels: str | None
    patient: str | None = None
    age: str | None = None
    sex: str | None = None
    view: str | None = None
    official: str | None = None
    path: str | None = None  # None: no such file
    values: dict[str, float] | None = None
    """In place of `labels`: finding -> 1 present, 0 absent, -1 uncertain, or the share of readers
    who see it; a finding that is not there is not annotated."""


@dataclass
class Problem:
    """A row that cannot be used. `kind` is shared by all such rows, `detail` is this row's own."""

    table: str
    row: int
    image: str
    kind: str
    detail: str = ""


@dataclass
class Listing:
    """What one folder says: its rows in the tables' order, the problems of the tables, and things
    worth a note."""

    layout: str
    looked_in: list[str]
    rows: list[Row]
    complete: bool  # True: the rows speak about all 14 findings; False: only about those they name
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # (line, fields) of a table of boxes
    boxes: list[tuple[int, list[str]]] = field(default_factory=list)
    boxes_table: str = "BBox_List_2017.csv"
    population: str = ""  # whose patients they are; empty: nobody else's
    tells_views: bool = False  # True: lateral films are among the rows, and `view` says which


class Layout(NamedTuple):
    """One way in which a folder holds a dataset.

    `looks_for` names its table in messages; `find` gives the tables of a folder, none where it is
    another layout; `read` takes the folder and one of them.
    """

    name: str
    looks_for: str
    find: Callable[[Path], list[Path]]
    read: Callable[[Path, Path], Listing]
    population: str = ""


def canonical_finding(name: str) -> str | None:
    """One of FINDINGS, NO_FINDING, or None: case, spaces and underscores do not matter; NORMAL is
    no finding."""
    return _NAMES.get(" ".join(name.lower().replace("_", " ").split()))


def read_image_table(folder: Path, table: Path, columns: dict[str, str]) -> Listing:
    """A table of all 14 findings and the image folders beside it."""
    places = [
        place
        for pattern in IMAGE_FOLDERS
        for place in sorted(folder.glob(pattern))
        if place.is_dir() and as_text(place.name) == place.name
    ]
    looked_in = [place.relative_to(folder).as_posix() for place in places] or ["images"]
    listing = Listing("", looked_in, [], complete=True)
    listing.rows = read_rows(table, columns, set(), listing.problems)
    files = scan(places)
    for row in listing.rows:
        row.path = files.get(row.image)
    note_unlisted(listing, files, [row.image for row in listing.rows], table.name)
    return listing


def read_rows(
    path: Path, columns: dict[str, str], optional: set[str], problems: list[Problem]
) -> list[Row]:
    """The rows of one table; `columns` maps fields of Row to headings, of which image and labels
    are needed."""
    header, lines, broken = table_lines(path)
    header = [_RENAMED.get(name, name) for name in header]
    problems += [Problem(path.name, number, "", "broken row", detail) for number, detail in broken]
    check_columns(path, header, [columns[k] for k in ("image", "labels") if k not in optional])
    place = {key: header.index(name) for key, name in columns.items() if name in header}
    rows = []
    for number, cells in lines:
        if len(cells) <= max(place.values()):
            image = cells[place["image"]] if len(cells) > place["image"] else ""
            detail = f"{len(cells)} fields where the header has {len(header)}"
            problems.append(Problem(path.name, number, image, "broken row", detail))
            continue
        values = {key: cells[index].strip() or None for key, index in place.items()}
        rows.append(
            Row(path.name, number, values.pop("image") or "", values.pop("labels", None), **values)
        )
    return rows


def table_rows(
    path: Path, columns: Sequence[str], problems: list[Problem], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str | None]]]:
    """(line, column -> text, None where empty) of each row of a table that has these columns.

    A row with more or fewer fields than the header is a problem and is left out. Raises
    DatasetError where the file or one of `columns` is missing; those of `optional` may be.
    """
    if not path.is_file():
        raise DatasetError(
            f"{path}: this table is missing; the data set is not complete without it."
        )
    header, lines, broken = table_lines(path)
    problems += [Problem(path.name, number, "", "broken row", detail) for number, detail in broken]
    check_columns(path, header, columns)
    if twice := [name for name in columns if header.count(name) > 1]:
        raise DatasetError(f"{path}: there are two columns {twice[0]!r}; keep one of them.")
    if not lines:
        raise DatasetError(f"{path}: the table has no row; download it again.")
    place = {name: header.index(name) for name in (*columns, *optional) if name in header}
    for number, cells in lines:
        if len(cells) != len(header):
            detail = f"{len(cells)} fields where the header has {len(header)}"
            problems.append(Problem(path.name, number, cells[0], "broken row", detail))
        else:
            yield number, {name: cells[index].strip() or None for name, index in place.items()}


def label_values(
    cells: Mapping[str, str | None], columns: Mapping[str, str], healthy: str | None = None
) -> tuple[dict[str, float], str]:
    """finding -> 1, 0 or -1 from the columns of one row, and what is wrong with it, or nothing.

    columns: column -> finding. An empty cell is not annotated; where the column `healthy` (No
    Finding) is 1, it is 0. A row that says both is contradictory.
    """
    known = {None: None, "1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": -1.0, "-1.0": -1.0}
    names = [*columns, *([healthy] if healthy else [])]
    if odd := [f"{name} {cells[name]!r}" for name in names if cells[name] not in known]:
        return {}, f"label other than 1, 0, -1 or empty: {', '.join(odd)}"
    values = {columns[name]: known[cells[name]] for name in columns}
    if healthy and known[cells[healthy]] == 1:
        if present := [name for name, value in values.items() if value == 1]:
            return {}, f"contradictory labels: {healthy} and {', '.join(present)}"
        values = {name: 0.0 if value is None else value for name, value in values.items()}
    return {name: value for name, value in values.items() if value is not None}, ""


def first_file(places: Sequence[Path], relative: str) -> str | None:
    """The path of `relative` below the first of `places` where it is a file; None where it is
    nowhere, or would lead out of them."""
    if ".." in Path(relative).parts or Path(relative).is_absolute():
        return None
    paths = (os.path.join(place, relative) for place in places)  # noqa: PTH118 - for every image
    return next((path for path in paths if os.path.isfile(path)), None)  # noqa: PTH113


def scan(places: Iterable[Path]) -> dict[str, str]:
    """File name -> path of every file directly in `places` (the first place wins), hidden files
    left out."""
    files: dict[str, str] = {}
    for place in places:
        if place.is_dir():
            with os.scandir(place) as entries:
                for entry in entries:
                    if not entry.name.startswith(".") and _may_be_file(entry):
                        files.setdefault(entry.name, entry.path)
    return files


def _may_be_file(entry: os.DirEntry) -> bool:
    """Links that lead in a circle count: the row that lists one is then named as unreadable."""
    try:
        return entry.is_file()
    except OSError:
        return True


def as_text(name: str) -> str:
    """A file's name with the bytes that are not UTF-8 as \\xNN: no frame and no terminal takes
    them."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def note_unlisted(
    listing: Listing,
    files: Iterable[str],
    names: Iterable[str],
    table: str,
    suffixes: str | tuple[str, ...] = IMAGE_SUFFIXES,
) -> None:
    """Adds a note to `listing` about images among `files` whose names no row has."""
    listed = set(names)
    unlisted = sorted(
        name for name in files if name not in listed and name.lower().endswith(suffixes)
    )
    if unlisted:
        listing.notes.append(
            f"{len(unlisted):,} images are not listed in {table} and were left out, as {as_text(unlisted[0])}"
        )


def present(folder: Path, *names: str) -> list[Path]:
    """The first of these files that exists in `folder`, as a list of one; empty where none does."""
    return [path for name in names if (path := folder / name).is_file()][:1]
