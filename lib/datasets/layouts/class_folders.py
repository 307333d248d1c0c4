"""Folders named after findings (NORMAL, PNEUMONIA, ...), also below train, val and test."""

import re
from pathlib import Path

from lib.datasets.layouts.listing import (
    IMAGE_SUFFIXES,
    NIH_NAME,
    Layout,
    Listing,
    Problem,
    Row,
    as_text,
    canonical_finding,
    scan,
)

SPLIT_FOLDERS = {
    "train": "train",
    "val": "train",
    "valid": "train",
    "validation": "train",
    "test": "test",
}
KAGGLE_PNEUMONIA = re.compile(
    r"^(person\d+)_(?:bacteria|virus)_|^((?:NORMAL2-)?IM-\d+)-\d+", re.IGNORECASE
)


def find(folder: Path) -> list[Path]:
    """The folder itself, where one of its class folders has the name of a finding."""
    return [folder] if any(is_finding for _, is_finding, _ in _class_folders(folder)) else []


def read(folder: Path, table: Path) -> Listing:
    """Every image of the class folders.

    Patients come from NIH names or from Kaggle's pneumonia names: person1_bacteria_2.jpeg is
    'person1', NORMAL2-IM-0001-0001.jpeg is 'NORMAL2-IM-0001'. An image with an NIH name is known by
    it, others by their place.
    """
    listing = Listing("", [], [], complete=False)
    for place, is_finding, official in _class_folders(folder):
        relative = place.relative_to(folder).as_posix()
        listing.looked_in.append(relative)
        for name, path in sorted(scan([place]).items()):
            if not is_finding and not name.lower().endswith(IMAGE_SUFFIXES):
                continue  # some other folder beside the classes
            if as_text(f"{relative}/{name}") != f"{relative}/{name}":
                listing.problems.append(
                    Problem(
                        as_text(relative), 0, as_text(name), "name that is not UTF-8", "rename it"
                    )
                )
                continue
            patient = KAGGLE_PNEUMONIA.match(name)
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


def _subfolders(folder: Path) -> list[Path]:
    return sorted(e for e in folder.iterdir() if e.is_dir() and not e.name.startswith((".", "__")))


LAYOUT = Layout("class folders", "folders named after findings", find, read)
