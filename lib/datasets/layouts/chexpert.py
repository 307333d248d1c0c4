"""CheXpert, full or small: train.csv, valid.csv, and the labels of its test set that CheXlocalize
published (Irvin et al. 2019; Saporta et al. 2022)."""

import re
from collections.abc import Iterator
from pathlib import Path

from lib.datasets.layouts.csv_text import header_of
from lib.datasets.layouts.listing import (
    Layout,
    Listing,
    Problem,
    Row,
    first_file,
    label_values,
    table_rows,
)
from lib.exceptions import DatasetError

FINDINGS = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Pleural Effusion": "Effusion",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
}
"""Column -> finding, as in torchxrayvision's CheX_Dataset. What is not mentioned in a report is not
annotated, except that No Finding excludes all seven."""
OTHER_COLUMNS = (
    "Enlarged Cardiomediastinum",
    "Lung Opacity",
    "Lung Lesion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
HEALTHY = "No Finding"
OPTIONAL = ("Sex", "Age", "Frontal/Lateral", "AP/PA", HEALTHY)
TABLES = {
    "train": ("train.csv",),
    "val": ("valid.csv", "val_labels.csv"),
    "test": ("test_labels.csv", "groundtruth.csv"),
}
FOLDERS = {"train": ("train",), "val": ("valid", "val"), "test": ("test",)}
PATH = re.compile(
    r"^(?:CheXpert-v1\.0[^/]*/)?(train|valid|val|test)/(patient\d+/study\d+/view\d+_(frontal|lateral)\.jpg)$"
)
STUDY = re.compile(r"^(?:CheXpert-v1\.0[^/]*/)?test/(patient\d+/study\d+)$")


def is_table(path: Path) -> bool:
    """Whether a CSV file has CheXpert's columns, or most of them."""
    return len(set(header_of(path)) & {*FINDINGS, *OTHER_COLUMNS}) >= 5


def find(folder: Path) -> list[Path]:
    """One of CheXpert's tables, in the folder or in that of its archive."""
    return [paths[0] for paths in _tables(folder).values() if paths][:1]


def read(folder: Path, table: Path) -> Listing:
    """The rows of all tables, with the images below train, valid and test.

    With labels of the test set valid.csv is the validation list, without them the test list.
    """
    tables = _tables(folder)
    listing = Listing("", ["train", "valid", "test"], [], complete=False, tells_views=True)
    places = _places(folder)
    for part, paths in tables.items():
        _check_table(places, part, paths)
        for path in paths[:1]:
            official = "test" if part == "val" and not tables["test"] else part
            listing.rows += _rows(listing, path, part, official, places)
        listing.notes += [
            f"{path.relative_to(folder)} was not read: {paths[0].relative_to(folder)} is of the same images"
            for path in paths[1:]
        ]
    if tables["val"]:
        use = "validation" if tables["test"] else "test"
        listing.notes.append(f"{tables['val'][0].name} is the {use} list")
    return listing


def _tables(folder: Path) -> dict[str, list[Path]]:
    """The tables of each part, the one to read first."""
    places = [folder, *sorted(folder.glob("CheXpert*"))]
    return {
        part: [
            path
            for place in places
            for name in names
            if (path := place / name).is_file() and is_table(path)
        ]
        for part, names in TABLES.items()
    }


def _places(folder: Path) -> list[Path]:
    """Where train/, valid/ and test/ may be, and the folders of the full set's archives."""
    return [place for place in [folder, *sorted(folder.glob("CheXpert*"))] if place.is_dir()]


def _check_table(places: list[Path], part: str, tables: list[Path]) -> None:
    """Raise DatasetError where images are there and their table is not."""
    for place in places:
        for name in FOLDERS[part]:
            if not tables and any((place / name).glob("patient*")):
                raise DatasetError(
                    f"{place / name} has images, but their table {TABLES[part][0]} is missing, or "
                    "has not CheXpert's columns; put it beside that folder, or remove the folder."
                )


def _rows(
    listing: Listing, table: Path, part: str, official: str, places: list[Path]
) -> Iterator[Row]:
    studies = "Study" in header_of(table)
    key = "Study" if studies else "Path"
    for number, cells in table_rows(table, [key, *FINDINGS], listing.problems, OPTIONAL):
        text = cells[key] or ""

        def add(kind: str, detail: str = "", number: int = number, image: str = text) -> None:
            listing.problems.append(Problem(table.name, number, image, kind, detail))

        healthy = HEALTHY if HEALTHY in cells else None
        values, wrong = label_values(cells, FINDINGS, healthy)
        paths = _of_study(text, places) if studies else [text]
        found = [
            match for path in paths if (match := PATH.match(path)) and match[1] in FOLDERS[part]
        ]
        if wrong:
            add(wrong)
        elif not found:
            add(
                "path of an unknown kind, or no such study"
                if studies
                else "path of an unknown kind"
            )
        for match in found if not wrong else []:
            view = match[3].upper()
            if (cells.get("Frontal/Lateral") or view).upper() != view:
                add("Frontal/Lateral contradicts the file name", repr(cells["Frontal/Lateral"]))
                continue
            if view == "FRONTAL":
                view = cells.get("AP/PA") or view
            yield Row(
                table=table.name,
                row=number,
                image=f"chexpert/{part}/{match[2]}",
                labels=None,
                patient=match[2].split("/")[0].removeprefix("patient"),
                age=cells.get("Age"),
                sex=cells.get("Sex"),
                view=view,
                official=official,
                path=_image(places, part, match[2]),
                values=values,
            )


def _image(places: list[Path], part: str, name: str) -> str | None:
    """The image below train/, valid/ or test/; the full set's archives hold the patients
    themselves."""
    inside = [place / sub for place in places for sub in FOLDERS[part]]
    return first_file([*inside, *places], name)


def _of_study(study: str, places: list[Path]) -> list[str]:
    """The paths, as in a column Path, of a study's images; empty where there is none."""
    match = STUDY.match(study)
    names = {
        image.name
        for place in places
        if match
        for image in (place / "test" / match[1]).glob("view*.jpg")
    }
    return [f"test/{match[1]}/{name}" for name in sorted(names)] if match else []


LAYOUT = Layout(
    "CheXpert", "train.csv, valid.csv or test_labels.csv of CheXpert", find, read, "chexpert"
)
