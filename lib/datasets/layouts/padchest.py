"""PadChest: its CSV file with lists of labels, and 16-bit PNG (Bustos et al. 2020)."""

import ast
from pathlib import Path

from lib.datasets.layouts.listing import (
    Layout,
    Listing,
    Problem,
    Row,
    note_unlisted,
    scan,
    table_rows,
)
from lib.datasets.layouts.padchest_labels import FINDINGS, LABELS, SAYS_NOTHING

COLUMNS = (
    "ImageID",
    "StudyDate_DICOM",
    "PatientID",
    "PatientBirth",
    "PatientSex_DICOM",
    "Projection",
    "Labels",
)
VIEWS = {"L": "LATERAL", "AP_HORIZONTAL": "AP"}
NORMAL = "normal"


def find(folder: Path) -> list[Path]:
    """The set's table."""
    return sorted(folder.glob("PADCHEST_chest_x_ray_images_labels*.csv*"), reverse=True)


def read(folder: Path, table: Path) -> Listing:
    """Every row of the table, with the images in the folder, in images/ or in the archives'
    folders 0 to 54."""
    places = [place for pattern in ("", "images*", "[0-9]*", "images*/[0-9]*")
              for place in (sorted(folder.glob(pattern)) if pattern else [folder]) if place.is_dir()]  # fmt: skip
    looked_in = [place.relative_to(folder).as_posix() for place in places]
    listing = Listing("", looked_in, [], complete=True, tells_views=True)
    files = scan(places)
    strange: dict[str, str] = {}
    names = set()
    for number, cells in table_rows(table, COLUMNS, listing.problems):
        name = cells["ImageID"] or ""
        names.add(name)
        labels, wrong = _labels(cells["Labels"])
        if "/" in name or "\\" in name or not name:
            wrong = wrong or "no file name"
        if wrong:
            listing.problems.append(Problem(table.name, number, name, wrong))
            continue
        strange.update({label: name for label in labels if label not in LABELS})
        view = (cells["Projection"] or "").upper()
        listing.rows.append(
            Row(
                table=table.name,
                row=number,
                image=f"padchest/{name}",
                labels=None,
                patient=cells["PatientID"],
                age=_age(cells["StudyDate_DICOM"], cells["PatientBirth"]),
                sex=cells["PatientSex_DICOM"],
                view=VIEWS.get(view, view) or None,
                path=files.get(name),
                values=_values(labels),
            )
        )
    if strange:
        listing.notes.append(
            f"{len(strange):,} labels are not in PadChest's list and count as no finding, as "
            f"{min(strange)!r} of {strange[min(strange)]}"
        )
    note_unlisted(listing, files, names, table.name)
    return listing


def _labels(text: str | None) -> tuple[set[str], str]:
    """The labels of "['pneumonia', ' pleural effusion']", stripped, and what is wrong, or
    nothing."""
    try:
        found = ast.literal_eval(text or "[]")
    except (ValueError, SyntaxError):
        return set(), f"labels that are no list: {(text or '')[:60]!r}"
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        return set(), f"labels that are no list of names: {(text or '')[:60]!r}"
    labels = {one.strip() for one in found} - {""}
    present = sorted(labels & set().union(*FINDINGS.values()))
    if NORMAL in labels and present:
        return labels, f"contradictory labels: {NORMAL} and {', '.join(present)}"
    return labels, ""


def _values(labels: set[str]) -> dict[str, float]:
    """Every finding, or none where the labels say nothing about the film."""
    if not labels - SAYS_NOTHING or labels & {"exclude", "suboptimal study"}:
        return {}
    return {name: float(bool(labels & synonyms)) for name, synonyms in FINDINGS.items()}


def _age(study: str | None, birth: str | None) -> str | None:
    """Years between a date such as 20140915 and a year; text that is no age where one is neither."""
    if study is None or birth is None:
        return None
    try:
        return str(int(study[:4]) - int(float(birth)))
    except ValueError:
        return f"study {study}, born {birth}"


LAYOUT = Layout("PadChest", "PADCHEST_chest_x_ray_images_labels_160K*.csv", find, read, "padchest")
