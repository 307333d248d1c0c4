"""In: a dataset folder in one of five layouts. Out: a `Listing`: every row that it lists, as text,
and the files found.

The layouts are told apart by what is in the folder; nothing is judged here but the tables' own
shape. The rows are checked, and turned into numbers, by `lib.datasets.tables`.
"""

import codecs
import csv
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lib.config import FINDINGS, NO_FINDING
from lib.exceptions import DatasetError

NIH_NAME = re.compile(r"^(\d{8})_\d{3}\.(?:png|jpe?g)$", re.IGNORECASE)
SPLIT_FOLDERS = {
    "train": "train",
    "val": "train",
    "valid": "train",
    "validation": "train",
    "test": "test",
}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_IMAGE_FOLDERS = ("images", "images_*/images", "images_*", "sample/images", "sample/sample/images")
_KAGGLE_PNEUMONIA = re.compile(
    r"^(person\d+)_(?:bacteria|virus)_|^((?:NORMAL2-)?IM-\d+)-\d+", re.IGNORECASE
)
_NIH_COLUMNS = {
    "image": "Image Index",
    "labels": "Finding Labels",
    "patient": "Patient ID",
    "age": "Patient Age",
    "sex": "Patient Gender",
    "view": "View Position",
}
_CHALLENGE_COLUMNS = {"image": "imageID", "labels": "disease"}
_NAMES = {name.lower().replace("_", " "): name for name in (*FINDINGS, NO_FINDING)} | {
    "infiltrate": "Infiltration",  # so written in BBox_List_2017.csv
    "normal": NO_FINDING,
}


@dataclass
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
    boxes: list[tuple[int, list[str]]] = field(
        default_factory=list
    )  # (line, fields) of BBox_List_2017.csv


def find_layout(folder: Path) -> str:
    """The name of the layout of `folder`. Raises DatasetError, saying what was looked for, where it
    is none."""
    return _detect(folder)[0][0]


def read_listing(folder: Path) -> Listing:
    """Everything that `folder` lists. Raises DatasetError where the folder, or a table, cannot be
    read at all."""
    found = _detect(folder)
    (layout, reader, table), others = found[0], found[1:]
    listing = reader(folder, table)
    listing.layout = f"{layout} ({table.relative_to(folder)})" if table != folder else layout
    listing.notes += [
        f"{other[2].name} is also there and was not read ({other[0]})" for other in others
    ]
    return listing


def canonical_finding(name: str) -> str | None:
    """One of FINDINGS, NO_FINDING, or None: case, spaces and underscores do not matter; NORMAL is
    no finding."""
    return _NAMES.get(" ".join(name.lower().replace("_", " ").split()))


def _detect(folder: Path) -> list[tuple[str, Callable[[Path, Path], Listing], Path]]:
    """Every layout that fits, the one to use first."""
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: no such folder. Set data_root and data_dir to where the dataset folders are."
        )
    expected = [
        *folder.glob("Data_Entry_2017*.csv"),
        *(folder / name for name in ("sample_labels.csv", "14_train.csv", "train.csv")),
    ]
    if folders := [path for path in expected if path.is_dir()]:
        raise DatasetError(
            f"{folders[0]} is a folder, but a table of that name is expected; rename or remove it."
        )
    tables: list[tuple[str, Callable[[Path, Path], Listing], list[Path]]] = [
        ("NIH release", _read_nih, sorted(folder.glob("Data_Entry_2017*.csv"), reverse=True)),
        (
            "Kaggle sample",
            _read_kaggle,
            _present(folder, "sample_labels.csv", "sample/sample_labels.csv"),
        ),
        ("challenge full set", _read_challenge, _present(folder, "14_train.csv")),
        ("challenge single-finding set", _read_single, _present(folder, "train.csv")),
    ]
    found = [(name, reader, path) for name, reader, paths in tables for path in paths]
    if not found and any(known for _, known, _ in _class_folders(folder)):
        found = [("class folders", _read_classes, folder)]
    if not found:
        names = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        raise DatasetError(
            f"{folder}: no known layout. Looked for Data_Entry_2017*.csv, sample_labels.csv, 14_train.csv, train.csv, "
            f"or folders named after findings (NORMAL, PNEUMONIA, ...); found {names}."
        )
    return found


def _read_nih(folder: Path, table: Path) -> Listing:
    listing = _read_table(folder, table, _NIH_COLUMNS)
    lists = {"trainval": "train_val_list.txt", "test": "test_list.txt"}
    members = {
        part: set(_lines(folder / name))
        for part, name in lists.items()
        if (folder / name).is_file()
    }
    both = members.get("trainval", set()) & members.get("test", set())
    for row in listing.rows:
        row.official = next(
            (part for part in ("test", "trainval") if row.image in members.get(part, ())), None
        )
        if row.image in both:
            listing.problems.append(
                Problem(row.table, row.row, row.image, "listed for training and for test")
            )
    known = {row.image for row in listing.rows}
    listed = set().union(*members.values())
    for part, name in lists.items():
        if strangers := members.get(part, set()) - known:
            _check_list(folder / name, members[part], known, listed)
            listing.notes.append(
                f"{len(strangers):,} images of {name} are not in {table.name}, as {min(strangers)}"
            )
    if members and (unlisted := known - listed):
        listing.notes.append(
            f"{len(unlisted):,} images are in neither official list, as {min(unlisted)}"
        )
    if (path := folder / "BBox_List_2017.csv").is_file():
        _, listing.boxes, broken = _table_lines(path)
        listing.problems += [
            Problem(path.name, number, "", "broken row", detail) for number, detail in broken
        ]
    return listing


def _check_list(path: Path, names: set[str], known: set[str], listed: set[str]) -> None:
    """Raise DatasetError where most names of an official list are of no image: the list would be
    silently ignored.

    A list of the whole release beside a part of the images is fine: then every image is in one of
    the lists.
    """
    found = len(names & known)
    if 2 * found < len(names) and not known <= listed:
        raise DatasetError(
            f"{path}: only {found:,} of its {len(names):,} names are images of the table: it has "
            f"{min(names - known)!r}, the table {min(known - listed)!r}. Write file names as the table has them (no "
            "folder in front, with .png), or remove the list if it belongs to other images."
        )


def _read_kaggle(folder: Path, table: Path) -> Listing:
    return _read_table(folder, table, _NIH_COLUMNS)


def _read_challenge(folder: Path, table: Path) -> Listing:
    return _read_table(folder, table, _CHALLENGE_COLUMNS)


def _read_single(folder: Path, table: Path) -> Listing:
    listing = Listing("", ["train", "test"], [], complete=False)
    for part in ("train", "test"):
        if (path := folder / f"{part}.csv").is_file():
            optional = {"labels"} if part == "test" else set()
            rows = _rows(path, _CHALLENGE_COLUMNS, optional, listing.problems)
            files = scan([folder / part])
            for row in rows:
                row.official, row.path = part, files.get(row.image)
            listing.rows += rows
            _note_unlisted(listing, files, rows, path.name)
    return listing


def _read_classes(folder: Path, table: Path) -> Listing:
    """Patients come from NIH names or from Kaggle's pneumonia names: person1_bacteria_2.jpeg is
    'person1', NORMAL2-IM-0001-0001.jpeg is 'NORMAL2-IM-0001'. An image with an NIH name is known by
    it, others by their place.
    """
    listing = Listing("", [], [], complete=False)
    for place, known, official in _class_folders(folder):
        relative = place.relative_to(folder).as_posix()
        listing.looked_in.append(relative)
        for name, path in sorted(scan([place]).items()):
            if not known and not name.lower().endswith(IMAGE_SUFFIXES):
                continue  # some other folder beside the classes
            patient = _KAGGLE_PNEUMONIA.match(name)
            image = name if NIH_NAME.match(name) else f"{relative}/{name}"
            row = Row(relative, 0, image, place.name, official=official, path=path)
            row.patient = (patient[1] or patient[2]) if patient else None
            listing.rows.append(row)
    return listing


def _class_folders(folder: Path) -> list[tuple[Path, bool, str | None]]:
    """(class folder, whether its name is a known finding, official part) of `folder` and its
    train/val/test."""
    found: list[tuple[Path, bool, str | None]] = []
    for entry in _subfolders(folder):
        if part := SPLIT_FOLDERS.get(entry.name.lower()):
            found += [
                (sub, canonical_finding(sub.name) is not None, part) for sub in _subfolders(entry)
            ]
        else:
            found.append((entry, canonical_finding(entry.name) is not None, None))
    return found


def _read_table(folder: Path, table: Path, columns: dict[str, str]) -> Listing:
    """A table of all 14 findings and the image folders beside it."""
    places = [
        place
        for pattern in _IMAGE_FOLDERS
        for place in sorted(folder.glob(pattern))
        if place.is_dir()
    ]
    looked_in = [place.relative_to(folder).as_posix() for place in places] or ["images"]
    listing = Listing("", looked_in, [], complete=True)
    listing.rows = _rows(table, columns, set(), listing.problems)
    files = scan(places)
    for row in listing.rows:
        row.path = files.get(row.image)
    _note_unlisted(listing, files, listing.rows, table.name)
    return listing


def _rows(
    path: Path, columns: dict[str, str], optional: set[str], problems: list[Problem]
) -> list[Row]:
    """The rows of one table; `columns` maps fields of Row to headings, of which image and labels
    are needed."""
    header, lines, broken = _table_lines(path)
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


def _table_lines(
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


def _note_unlisted(listing: Listing, files: dict[str, str], rows: list[Row], table: str) -> None:
    listed = {row.image for row in rows}
    unlisted = sorted(
        name for name in files if name not in listed and name.lower().endswith(IMAGE_SUFFIXES)
    )
    if unlisted:
        listing.notes.append(
            f"{len(unlisted):,} images are not listed in {table} and were left out, as {unlisted[0]}"
        )


def _lines(path: Path) -> list[str]:
    return read_text(path).split()


def _present(folder: Path, *names: str) -> list[Path]:
    return [path for name in names if (path := folder / name).is_file()][:1]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(e for e in folder.iterdir() if e.is_dir() and not e.name.startswith((".", "__")))
