"""In: dataset folders in any of five layouts. Out: a `Dataset`: one frame of images, patients and findings (1, 0, NaN).

Nothing is dropped silently: every row that cannot be used is named in one DatasetError or, when asked, in `bad_rows`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from lib.config import FINDINGS
from lib.exceptions import DatasetError
from lib.layouts import read_listing
from lib.rows import Rows, check_rows

__all__ = ["Dataset", "read_dataset"]


@dataclass(frozen=True)
class Dataset:
    """What a set of folders holds.

    frame: one row an image, with `image` (unique id), `path` (absolute), `patient`, `age` (years or NaN), `sex`
        ('M', 'F' or missing), `view` ('PA', 'AP' or missing), `source` (folder name), `official` ('trainval', 'train',
        'test' or missing), then a float column per finding of FINDINGS: 1 present, 0 absent, NaN not annotated.
    layouts: folder -> which layout was found there. bad_rows: source, row, image, reason of what cannot be used.
    phantom: any folder holds a file PHANTOM. boxes: image, finding, x, y, w, h in pixels of the original image.
    submission: ids of the images of an unlabelled test.csv, in its order. warnings: sentences worth reading.
    """

    frame: pd.DataFrame
    layouts: dict[str, str]
    bad_rows: pd.DataFrame
    phantom: bool
    boxes: pd.DataFrame
    submission: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_dataset(
    folders: Sequence[Path | str] | Path | str,
    *,
    on_bad: Literal["raise", "skip"] = "raise",
) -> Dataset:
    """Read and merge dataset folders; where several hold an image, the one that annotates most findings wins.

    Checks that every listed file is there, is not empty and starts like an image; whether it decodes to its end shows
    when the store is built (`lib.store`). With on_bad='skip' rows that cannot be used are left out and
    returned as `bad_rows`. Raises DatasetError: with on_bad='raise' for any such row (one error for
    all), always for a folder without a known layout, a table that cannot be read, or when no row is left.
    """
    if on_bad not in ("raise", "skip"):
        raise ValueError(f"on_bad must be 'raise' or 'skip', got {on_bad!r}")
    paths, sources = _folders(folders)
    listings = [read_listing(path) for path in paths]
    parts = [check_rows(listing, source) for listing, source in zip(listings, sources, strict=True)]
    errors = "\n".join(part.error for part in parts if part.error)
    if errors and on_bad == "raise":
        whole = "Images were not decoded for this; `cxr data check FOLDER` decodes them too and names every problem."
        advice = "Repair the data, or leave these rows out and have them listed: on_bad=skip."
        raise DatasetError(f"{errors}\n{advice}\n{whole}")
    bad = pd.concat([part.bad for part in parts], ignore_index=True)
    if not any(len(part.frame) for part in parts):
        raise DatasetError(f"{', '.join(map(str, paths))}: no image that can be used.\n{errors}".rstrip())
    frame, merge_notes = _merge([part.frame for part in parts])
    notes = [f"{source}: {note}" for source, part in zip(sources, parts, strict=True) for note in part.notes]
    return Dataset(
        frame=frame,
        layouts={str(path): listing.layout for path, listing in zip(paths, listings, strict=True)},
        bad_rows=bad,
        phantom=any((path / "PHANTOM").is_file() for path in paths),
        boxes=_boxes(parts),
        submission=tuple(dict.fromkeys(image for part in parts for image in part.submission)),
        warnings=tuple(notes + merge_notes),
    )


def _folders(folders: Sequence[Path | str] | Path | str) -> tuple[list[Path], list[str]]:
    """Absolute paths, and a name for each: the folder's, or its path where two folders have the same name."""
    given = [folders] if isinstance(folders, str | Path) else folders
    paths = [Path(folder).expanduser().absolute() for folder in given]
    if not paths or len(set(paths)) != len(paths):
        raise DatasetError(f"name one or more different dataset folders; got {', '.join(map(str, paths)) or 'none'}.")
    names = [path.name for path in paths]
    return paths, [str(path) if names.count(path.name) > 1 else path.name for path in paths]


def _merge(frames: list[pd.DataFrame]) -> tuple[pd.DataFrame, list[str]]:
    """One row an image. Per column the fullest source that knows a value wins, the first named one of equals."""
    frame = pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
    findings = list(FINDINGS)
    test = set(frame.loc[frame["official"] == "test", "image"])
    order = frame["image"].drop_duplicates()
    notes = []
    if len(order) < len(frame):
        twice = frame["image"].duplicated(keep=False)
        by_image = frame[twice].groupby("image", sort=False)
        clash = (by_image[findings].max() != by_image[findings].min()) & by_image[findings].max().notna()
        if n_clash := int(clash.any(axis=1).sum()):
            example = clash.index[clash.any(axis=1)][0]
            names = ", ".join(clash.columns[clash.loc[example]])
            what = "images are labelled differently by two sources (the fuller one wins)"
            notes.append(f"{n_clash:,} {what}, as {example} on {names}")
        fullest = frame[findings].notna().sum(axis=1).sort_values(ascending=False, kind="stable").index
        merged = frame.loc[fullest][twice.loc[fullest]].groupby("image", sort=False).first().reset_index()
        frame = pd.concat([frame[~twice], merged], ignore_index=True)
        frame = frame.set_index("image").loc[order].reset_index()
    frame["patient"] = frame["patient"].fillna(frame["image"])
    frame.loc[frame["image"].isin(test), "official"] = "test"
    return frame, notes


def _boxes(parts: Sequence[Rows]) -> pd.DataFrame:
    return pd.concat([part.boxes for part in parts], ignore_index=True).drop_duplicates(ignore_index=True)
