"""MIMIC-CXR-JPG 2.x: mimic-cxr-2.0.0-chexpert.csv.gz (or -negbio), -metadata and -split, images in
files/ (Johnson et al. 2019)."""

from pathlib import Path

from lib.datasets.layouts.chexpert import FINDINGS, HEALTHY
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

SPLITS = {"train": "train", "validate": "val", "test": "test"}
VIEWS = {"LL": "LATERAL", "LATERAL": "LATERAL"}


def find(folder: Path) -> list[Path]:
    """The first of the set's tables that is there."""
    tables = [
        path for kind in ("chexpert", "negbio", "metadata", "split") for path in _of(folder, kind)
    ]
    return tables[:1]


def read(folder: Path, table: Path) -> Listing:
    """A row per image of the metadata, with the labels of its study and its official split.

    The labels are CheXpert's labeller's; NegBio's where the folder has only those. Findings are
    mapped as CheXpert's are.
    """
    kind = "chexpert" if _of(folder, "chexpert") else "negbio"
    listing = Listing("", ["files"], [], complete=False, tells_views=True)
    labels = _labels(_one(folder, kind), listing)
    split = _splits(_one(folder, "split"), listing)
    table = _one(folder, "metadata")
    columns = ["dicom_id", "subject_id", "study_id", "ViewPosition"]
    unlabelled = set(labels)
    for number, cells in table_rows(table, columns, listing.problems):
        image, subject, study = (cells[name] or "" for name in columns[:3])
        values, wrong = labels.get((subject, study), ({}, ""))
        unlabelled.discard((subject, study))
        official = SPLITS.get(split.get(image, ""))
        if official is None:
            wrong = wrong or f"its split is {split.get(image, 'not given')!r}"
        if wrong or not (image and subject and study):
            wrong = wrong or "no dicom_id, subject_id or study_id"
            listing.problems.append(Problem(table.name, number, image, wrong))
            continue
        relative = f"p{subject[:2]}/p{subject}/s{study}/{image}.jpg"
        view = (cells["ViewPosition"] or "").upper()
        listing.rows.append(
            Row(
                table=table.name,
                row=number,
                image=f"mimic/{relative}",
                labels=None,
                patient=subject,
                view=VIEWS.get(view, view) or None,
                official=official,
                path=first_file([folder / "files", folder], relative),
                values=values,
            )
        )
    if kind == "negbio":
        listing.notes.append("the labels are NegBio's: there are none of CheXpert's labeller")
    if unlabelled:
        listing.notes.append(
            f"{len(unlabelled):,} labelled studies have no image in {table.name}, as {min(unlabelled)[1]}"
        )
    return listing


def _labels(table: Path, listing: Listing) -> dict[tuple[str, str], tuple[dict[str, float], str]]:
    """(subject, study) -> its values, and what is wrong with them."""
    labels: dict[tuple[str, str], tuple[dict[str, float], str]] = {}
    columns = ["subject_id", "study_id", *FINDINGS, HEALTHY]
    for number, cells in table_rows(table, columns, listing.problems):
        key = (cells["subject_id"] or "", cells["study_id"] or "")
        found = label_values(cells, FINDINGS, HEALTHY)
        if key in labels and labels[key] != found:
            found = {}, "its study is labelled twice, and differently"
        labels[key] = found
        if found[1]:
            detail = f"study {key[1]}"
            listing.problems.append(Problem(table.name, number, "", found[1], detail))
    return labels


def _splits(table: Path, listing: Listing) -> dict[str, str]:
    """dicom_id -> its split; 'given twice' where two rows contradict each other."""
    splits: dict[str, str] = {}
    for _, cells in table_rows(table, ["dicom_id", "split"], listing.problems):
        image, split = cells["dicom_id"] or "", cells["split"] or ""
        splits[image] = split if splits.get(image, split) == split else "given twice"
    return splits


def _of(folder: Path, kind: str) -> list[Path]:
    names = (f"mimic-cxr-2.*-{kind}.csv.gz", f"mimic-cxr-2.*-{kind}.csv")
    return [path for name in names for path in sorted(folder.glob(name))]


def _one(folder: Path, kind: str) -> Path:
    """The table of a kind; raises DatasetError where there is none."""
    if not (found := _of(folder, kind)):
        raise DatasetError(
            f"{folder}: the table mimic-cxr-2.0.0-{kind}.csv.gz is missing; MIMIC-CXR-JPG has it."
        )
    return found[0]


LAYOUT = Layout("MIMIC-CXR-JPG", "mimic-cxr-2.0.0-chexpert.csv.gz", find, read, "mimic")
