"""In: tables and folders of images. Out: a `Listing`: every row, as text, and the files found.

What all layouts share: the row, how a table is read, how images are found beside it.
"""

import codecs
import csv
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lib.config import FINDINGS, NO_FINDING
from lib.exceptions import DatasetError

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


class Layout(NamedTuple):
    """One way in which a folder holds a dataset.

    `looks_for` names its table in messages; `find` gives the tables of a folder, none where it is
    another layout; `read` takes the folder and one of them.
    """

    name: str
    looks_for: str
    find: Callable[[Path], list[Path]]
    read: Callable[[Path, Path], Listing]


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
    note_unlisted(listing, files, listing.rows, table.name)
    return listing


def read_rows(
    path: Path, columns: dict[str, str], optional: set[str], problems: list[Problem]
) -> list[Row]:
    """The rows of one table; `columns` maps fields of Row to headings, of which image and labels
    are needed."""
    header, lines, broken = table_lines(path)
    header = [_RENAMED.get(name, name) for name in header]
    problems += [Problem(path.name, number, "", "broken row", detail) for number, detail in broken]
    missing = [
        columns[key]
        for key in ("image", "labels")
        if key not in optional and columns[key] not in header
    ]
    if missing:
        raise DatasetError(
            f"{path}: no column {' or '.join(map(repr, missing))}; its columns are {', '.join(header)}."
        )
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


def table_lines(
    path: Path,
) -> tuple[list[str], list[tuple[int, list[str]]], list[tuple[int, str]]]:
    """The header, (line number, fields), and (line number, what is wrong) of a CSV file, blank
    lines left out.

    Each line is read by itself, so that a quote that is not closed costs one row and not all that
    follow.
    """
    header: list[str] | None = None
    lines, broken = [], []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        try:
            cells = next(csv.reader([line.rstrip("\r")], strict=True), [])
        except csv.Error as error:
            broken.append((number, f"{error}, as of a quote that is not closed: {line[:60]!r}"))
            continue
        if header is None:
            header = [name.strip() for name in cells]
        elif any(cells):
            lines.append((number, cells))
    return header or [], lines, broken


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with its mark; raises DatasetError that names file
    and line."""
    data = path.read_bytes()
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{path}: line {line} is not text in UTF-8 ({error.reason}); save the file as UTF-8."
        ) from error


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


def note_unlisted(listing: Listing, files: dict[str, str], rows: list[Row], table: str) -> None:
    """Adds a note to `listing` about images that no row lists."""
    listed = {row.image for row in rows}
    unlisted = sorted(
        name for name in files if name not in listed and name.lower().endswith(IMAGE_SUFFIXES)
    )
    if unlisted:
        listing.notes.append(
            f"{len(unlisted):,} images are not listed in {table} and were left out, as {as_text(unlisted[0])}"
        )


def present(folder: Path, *names: str) -> list[Path]:
    """The first of these files that exists in `folder`, as a list of one; empty where none does."""
    return [path for name in names if (path := folder / name).is_file()][:1]
