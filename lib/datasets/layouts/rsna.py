"""The RSNA pneumonia challenge of 2018: stage_2_train_labels.csv with boxes, and DICOM (Shih et al.
2019)."""

import json
from pathlib import Path

from lib.datasets.layouts.listing import (
    IMAGE_SUFFIXES,
    NIH,
    NIH_NAME,
    Layout,
    Listing,
    Problem,
    Row,
    note_unlisted,
    present,
    scan,
    table_rows,
)
from lib.exceptions import DatasetError
from lib.images.pixels import DICOM_SUFFIXES

TABLE, CLASSES = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"
MAPPINGS = "pneumonia-challenge-dataset-mappings_2018.json"
IMAGES = "stage_2_train_images"
BOX = ("x", "y", "width", "height")
OPACITY = "Lung Opacity"
KNOWN_CLASSES = (OPACITY, "No Lung Opacity / Not Normal", "Normal")


def find(folder: Path) -> list[Path]:
    """The training labels, or the class table where those are missing."""
    return present(folder, TABLE, CLASSES)


def read(folder: Path, table: Path) -> Listing:
    """A row per film: Pneumonia is Target (a lung opacity that may be pneumonia, as in
    torchxrayvision's RSNA_Pneumonia_Dataset); no other finding is annotated.

    The films are of the NIH's release. Where RSNA's file of mappings is in the folder, patients are
    the NIH's, so that nobody stands in two splits of a merged study.
    """
    table = folder / TABLE
    listing = Listing("", [IMAGES], [], complete=False, boxes_table=TABLE)
    classes = _classes(folder, listing)
    films = _patients(folder, listing)
    targets: dict[str, tuple[int, str | None]] = {}
    seen: set[tuple[str, ...]] = set()
    for number, cells in table_rows(table, ["patientId", *BOX, "Target"], listing.problems):
        name, target = cells["patientId"] or "", cells["Target"]
        row, before = targets.setdefault(name, (number, target))
        box = [cells[side] or "" for side in BOX]
        wrong = _wrong(name, target, before, any(box), classes)
        if not wrong and (name, *box) in seen:
            wrong = f"row {number} repeats an earlier one"
        seen.add((name, *box))
        if wrong:
            listing.problems.append(Problem(TABLE, row, f"rsna/{name}", wrong))
        elif any(box):
            listing.boxes.append((number, [f"rsna/{name}", "Pneumonia", *box]))
    places = scan([folder / IMAGES])
    files = {
        name.rpartition(".")[0]: path
        for name, path in places.items()
        if name.lower().endswith((*IMAGE_SUFFIXES, *DICOM_SUFFIXES))
    }
    for name, (number, target) in targets.items():
        values = {"Pneumonia": float(target == "1")}
        film = Row(TABLE, number, f"rsna/{name}", None, films.get(name), values=values)
        film.path = files.get(name)
        listing.rows.append(film)
    _note_patients(listing, films, set(targets))
    note_unlisted(listing, files, targets, TABLE, "")
    return listing


def _wrong(
    name: str, target: str | None, before: str | None, box: bool, classes: dict[str, str | None]
) -> str:
    """What is wrong with a row, or nothing; `before` is the first Target of the film."""
    if not name:
        return "no patientId"
    if target not in ("0", "1"):
        return f"Target other than 0 or 1: {target!r}"
    if target != before:
        return "Target contradicts an earlier row"
    if box != (target == "1"):
        return "Target 1 without a box" if not box else "a box with Target 0"
    if classes and name not in classes:
        return f"not in {CLASSES}"
    if classes and (classes[name] == OPACITY) != (target == "1"):
        return f"Target {target} contradicts the class {classes[name]!r}"
    return ""


def _classes(folder: Path, listing: Listing) -> dict[str, str | None]:
    """patientId -> its class; empty where the folder has no such table."""
    path = folder / CLASSES
    if not path.is_file():
        listing.notes.append(f"{CLASSES} is not there, so Target was not compared with the classes")
        return {}
    classes: dict[str, str | None] = {}
    for number, cells in table_rows(path, ["patientId", "class"], listing.problems):
        name, kind = cells["patientId"] or "", cells["class"]
        if kind not in KNOWN_CLASSES or classes.setdefault(name, kind) != kind:
            what = "unknown or contradictory class"
            listing.problems.append(Problem(CLASSES, number, name, what, repr(kind)))
    return classes


def _patients(folder: Path, listing: Listing) -> dict[str, str]:
    """patientId -> the NIH's number of the patient; empty where the folder has no mappings."""
    path = folder / MAPPINGS
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text())
        return {entry["subset_img_id"]: _nih_patient(entry["img_id"]) for entry in entries}
    except (ValueError, TypeError, KeyError) as error:
        raise DatasetError(f"{path} is damaged ({error!r}); download it again.") from error


def _nih_patient(film: str) -> str:
    """The number in a name such as 00000001_000.png; raises ValueError for any other."""
    if (match := NIH_NAME.match(film)) is None:
        raise ValueError(f"{film!r} is no film of the NIH's release")
    return match[1]


def _note_patients(listing: Listing, films: dict[str, str], names: set[str]) -> None:
    """Says whose films they are: the NIH's patients where all are known."""
    if not films:
        listing.notes.append(
            f"these films are of the NIH's release, but {MAPPINGS} is not there: in a study with NIH "
            "films, patients may stand in two splits"
        )
    elif missing := sorted(names - set(films)):
        listing.problems += [
            Problem(row.table, row.row, row.image, f"not in {MAPPINGS}")
            for row in listing.rows
            if row.image.removeprefix("rsna/") in missing
        ]
    if films:
        listing.population = NIH


LAYOUT = Layout("RSNA pneumonia challenge", TABLE, find, read, "rsna")
