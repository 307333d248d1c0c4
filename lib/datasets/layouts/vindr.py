"""VinDr-CXR: image-level labels of three readers (train) and of their consensus (test), DICOM or PNG
(Nguyen et al. 2022)."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from lib.datasets.layouts.listing import (
    IMAGE_SUFFIXES,
    Layout,
    Listing,
    Problem,
    Row,
    label_values,
    note_unlisted,
    scan,
    table_rows,
)
from lib.exceptions import DatasetError
from lib.images.pixels import DICOM_SUFFIXES

FINDINGS = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Emphysema": "Emphysema",
    "Infiltration": "Infiltration",
    "Pleural effusion": "Effusion",
    "Pleural thickening": "Pleural_Thickening",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
    "Pulmonary fibrosis": "Fibrosis",
}
"""Column -> finding, as in torchxrayvision's VinBrain_Dataset where it has the column. Nodule/Mass
does not say which of the two it is, and Hernia is not a column: these three are not annotated."""
HEALTHY = "No finding"
PARTS = ("train", "test")


def find(folder: Path) -> list[Path]:
    """The first of the two tables, in annotations/ or in the folder."""
    return [path for part in PARTS for path in _table(folder, part)][:1]


def read(folder: Path, table: Path) -> Listing:
    """A row per image of both tables, with the images of train/ and test/.

    A value is the share of the readers who see the finding.
    """
    listing = Listing("", list(PARTS), [], complete=False)
    for part in PARTS:
        files = {
            name.rpartition(".")[0]: path
            for name, path in scan([folder / part]).items()
            if name.lower().endswith((*IMAGE_SUFFIXES, *DICOM_SUFFIXES))
        }
        if tables := _table(folder, part):
            rows = _images(tables[0], part, listing)
            for row in rows:
                row.path = files.get(row.image)
            note_unlisted(listing, files, [row.image for row in rows], tables[0].name, "")
            for row in rows:
                row.image = f"vindr/{row.image}"
            listing.rows += rows
        elif files:
            raise DatasetError(
                f"{folder / part} has images, but annotations/image_labels_{part}.csv is missing."
            )
    return listing


def _images(table: Path, part: str, listing: Listing) -> list[Row]:
    """The images of a table, each with the mean of its readers' values; without paths."""
    readers: dict[str, dict[str, dict[str, float]]] = {}  # image -> reader -> values
    first: dict[str, int] = {}
    broken: set[str] = set()
    columns = ["image_id", *(["rad_id"] if part == "train" else []), *FINDINGS, HEALTHY]
    for number, cells in table_rows(table, columns, listing.problems):
        image, reader = cells["image_id"] or "", cells.get("rad_id", "consensus") or ""
        values, wrong = label_values(cells, FINDINGS, HEALTHY)
        if not wrong and -1 in values.values():
            wrong = "label other than 0 or 1"
        if not wrong and not (image and reader):
            wrong = "no image_id or rad_id"
        if not wrong and reader in readers.get(image, {}):
            wrong = f"two rows of reader {reader}"
        if wrong:
            listing.problems.append(Problem(table.name, number, image, wrong))
            broken.add(image)
        readers.setdefault(image, {})[reader] = values
        first.setdefault(image, number)
    counts = Counter(map(len, readers.values()))
    if len(counts) > 1:
        text = ", ".join(
            f"{images:,} images have {number}" for number, images in sorted(counts.items())
        )
        listing.notes.append(f"not all images of {table.name} have as many readers: {text}")
    return [
        Row(table.name, first[image], image, None, official=part, values=_shares(opinions.values()))
        for image, opinions in readers.items()
        if image not in broken
    ]


def _shares(opinions: Collection[Mapping[str, float]]) -> dict[str, float]:
    """finding -> the mean of the readers who say something of it."""
    said = {name: [one[name] for one in opinions if name in one] for name in FINDINGS.values()}
    return {name: sum(values) / len(values) for name, values in said.items() if values}


def _table(folder: Path, part: str) -> list[Path]:
    name = f"image_labels_{part}.csv"
    return [path for path in (folder / "annotations" / name, folder / name) if path.is_file()]


LAYOUT = Layout("VinDr-CXR", "annotations/image_labels_train.csv", find, read, "vindr")
