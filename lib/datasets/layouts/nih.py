"""The NIH's release of ChestX-ray14: Data_Entry_2017*.csv, the official lists, and
BBox_List_2017.csv."""

from pathlib import Path

from lib.datasets.layouts.csv_text import read_text, table_lines
from lib.datasets.layouts.listing import NIH, Layout, Listing, Problem, read_image_table
from lib.exceptions import DatasetError

COLUMNS = {
    "image": "Image Index",
    "labels": "Finding Labels",
    "patient": "Patient ID",
    "age": "Patient Age",
    "sex": "Patient Gender",
    "view": "View Position",
}


def find(folder: Path) -> list[Path]:
    """The release's tables, the newest first."""
    return sorted(folder.glob("Data_Entry_2017*.csv"), reverse=True)


def read(folder: Path, table: Path) -> Listing:
    """Every row of the table, with the official lists and the boxes beside it."""
    listing = read_image_table(folder, table, COLUMNS)
    lists = {"trainval": "train_val_list.txt", "test": "test_list.txt"}
    members = {
        part: set(_names(folder / name))
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
    images = {row.image for row in listing.rows}
    listed = set().union(*members.values())
    for part, name in lists.items():
        if missing := members.get(part, set()) - images:
            _check_list(folder / name, members[part], images, listed)
            listing.notes.append(
                f"{len(missing):,} images of {name} are not in {table.name}, as {min(missing)}"
            )
    if members and (unlisted := images - listed):
        listing.notes.append(
            f"{len(unlisted):,} images are in neither official list, as {min(unlisted)}"
        )
    if (path := folder / "BBox_List_2017.csv").is_file():
        header, listing.boxes, broken = table_lines(path)
        if header[:1] != [COLUMNS["image"]]:  # else a first row without a header would be lost
            broken.append((1, f"the header must begin with {COLUMNS['image']!r}"))
        listing.problems += [
            Problem(path.name, number, "", "broken row", detail) for number, detail in broken
        ]
    return listing


def _check_list(path: Path, names: set[str], images: set[str], listed: set[str]) -> None:
    """Raise DatasetError where most names of an official list are of no image: the list would be
    silently ignored.

    A list of the whole release beside a part of the images is fine: then every image is in one of
    the lists.
    """
    found = len(names & images)
    if 2 * found < len(names) and not images <= listed:
        raise DatasetError(
            f"{path}: only {found:,} of its {len(names):,} names are images of the table: it has "
            f"{min(names - images)!r}, the table {min(images - listed)!r}. Write file names as the table has them (no "
            "folder in front, with .png), or remove the list if it belongs to other images."
        )


def _names(path: Path) -> list[str]:
    return read_text(path).split()


LAYOUT = Layout("NIH release", "Data_Entry_2017*.csv", find, read, NIH)
