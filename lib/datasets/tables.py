"""In: dataset folders in any of the layouts. Out: a `Dataset`: one frame of images, patients and
findings (1, 0, NaN).

Nothing is dropped silently: every row that cannot be used is named in one DatasetError or, when
asked, in `bad_rows`.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from lib.config import FINDINGS, NO_FINDING, cache_folder
from lib.datasets.file_heads import check_heads
from lib.datasets.labels import DOUBT_COLUMNS, doubtful_labels, parse_labels, targets_of
from lib.datasets.layouts import (
    NIH,
    NIH_NAME,
    Listing,
    Problem,
    Row,
    canonical_finding,
    read_listing,
)
from lib.datasets.views import LATERAL, select_views
from lib.exceptions import DatasetError

BAD_COLUMNS = ["source", "row", "image", "reason"]
BOX_COLUMNS = ["image", "finding", "x", "y", "w", "h"]
_TEXT_COLUMNS = ["image", "path", "patient", "age", "sex", "view", "source", "official"]
_OLDEST = 120  # years; a few ages of the NIH table are above 400
_AGE = re.compile(r"^(-?\d+(?:\.\d+)?)\s*([YMWD]?)$", re.IGNORECASE)
_ODD_AGES = f"ages under 0 or above {_OLDEST} years"
_SEXES = {"M": "M", "MALE": "M", "F": "F", "FEMALE": "F"}
_VIEWS = {"PA": "PA", "AP": "AP"}
_UNITS_PER_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}


@dataclass(frozen=True)
class Rows:
    """One folder, checked: `frame`, `boxes` and `doubts` hold only what can be used, `bad` the rest
    with the reasons.

    `error` is the paragraph about the bad rows, empty where there are none.
    """

    frame: pd.DataFrame
    bad: pd.DataFrame
    boxes: pd.DataFrame
    doubts: pd.DataFrame
    submission: list[str]
    notes: list[str]
    error: str


def check_rows(listing: Listing, source: str) -> Rows:
    """The rows of a listing as a frame (columns as in `lib.datasets.tables.Dataset`) and what is
    wrong with the others.

    Of rows that list the same image alike the first is kept; of rows that contradict each other
    none.
    """
    problems = [*listing.problems, *_bad_rows(listing), *_bad_files(listing.rows)]
    records, notes = _records(listing, source)
    text = dict.fromkeys(_TEXT_COLUMNS, pd.StringDtype(na_value=np.nan)) | {"age": float}
    frame = pd.DataFrame(records, columns=_TEXT_COLUMNS).astype(text)
    targets = pd.DataFrame(targets_of(listing.rows, listing.complete), columns=FINDINGS)
    doubts = doubtful_labels(listing.rows)
    bad = {(p.table, p.row, p.image) for p in problems}
    good = np.array(
        [(row.table, row.row, row.image) not in bad for row in listing.rows], dtype=bool
    )
    unlabelled = np.array(
        [row.labels is None and row.values is None for row in listing.rows], dtype=bool
    )
    notes += _gaps(listing.rows)
    boxes, bad_boxes = _read_boxes(listing, set(frame["image"]))
    problems += bad_boxes
    reasons = [
        (source, p.row, p.image, p.kind + (f": {p.detail}" if p.detail else "")) for p in problems
    ]
    return Rows(
        frame=pd.concat([frame, targets], axis=1)[good].reset_index(drop=True),
        bad=pd.DataFrame(reasons, columns=BAD_COLUMNS),
        boxes=boxes[boxes["image"].isin(frame["image"][good])].reset_index(drop=True),
        doubts=doubts[doubts["image"].isin(frame["image"][good])].reset_index(drop=True),
        submission=frame["image"][good & unlabelled].tolist(),
        notes=listing.notes + notes,
        error=problem_text(source, problems, len(listing.rows), listing.looked_in)
        if problems
        else "",
    )


def _gaps(rows: Sequence[Row]) -> list[str]:
    """Notes of how many images with values lack every label, and of how many lack a patient where
    others have one."""
    valued = [row for row in rows if row.values is not None]
    silent = sum(not row.values for row in valued)
    nobody = sum(not row.patient for row in valued)
    notes = [f"{silent:,} images are labelled for none of the 14 findings"] * bool(silent)
    if 0 < nobody < len(valued):
        notes.append(f"{nobody:,} images have no patient; each counts as its own patient")
    return notes


def patient_of(image: str, listed: str | None = None) -> str | None:
    """The patient as listed, else from an NIH file name, else None; '00000506', '506' and '506.0'
    are all '506'."""
    if listed:
        return str(int(float(listed))) if re.fullmatch(r"\d{1,15}(\.0+)?", listed) else listed
    match = NIH_NAME.match(image)
    return str(int(match[1])) if match else None


def problem_text(
    source: str, problems: Sequence[Problem], n_rows: int, looked_in: Sequence[str] = ()
) -> str:
    """The paragraph of an error: how many of each kind of problem, each with its first three
    examples."""
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    bad = len({(p.table, p.row, p.image) for p in problems})
    lines = [f"{source}: {bad:,} of {max(bad, n_rows):,} rows cannot be used"]
    for kind, members in sorted(kinds.items(), key=lambda item: -len(item[1])):
        text = f"{len(members):,} x {kind}"
        if kind == "missing file":
            tables = ", ".join(dict.fromkeys(p.table for p in members))
            missing = f"{len(members):,} of the {n_rows:,} images listed in {tables} are not there"
            text = (
                f"none of the {n_rows:,} images listed in {tables} is there"
                if len(members) == n_rows
                else missing
            )
            text += f" (looked in {', '.join(looked_in)}; unpack all image folders there)"
        examples = "; ".join(_example(p) for p in members[:3]) + (
            "; ..." if len(members) > 3 else ""
        )
        lines.append(f"  - {text}: {examples}")
    return "\n".join(lines)


def _example(problem: Problem) -> str:
    where = f"{problem.table} row {problem.row}" if problem.row else problem.table
    return (
        f"{problem.image or '(no name)'} ({where}{', ' + problem.detail if problem.detail else ''})"
    )


def _bad_rows(listing: Listing) -> list[Problem]:
    """What is wrong with the tables' text; a row can have several problems."""
    problems: list[Problem] = []
    seen: dict[str, Row] = {}
    parsed = {text: parse_labels(text) for text in {row.labels for row in listing.rows}}
    no_ages = {text for text in {row.age for row in listing.rows} if _age(text) is None}
    for row in listing.rows:

        def add(kind: str, detail: str = "", row: Row = row) -> None:
            problems.append(Problem(row.table, row.row, row.image, kind, detail))

        _, kind, detail = parsed[row.labels]
        if kind:
            add(kind, detail)
        elif row.labels is row.values is None and (listing.complete or row.official != "test"):
            add("no finding given")
        if row.age in no_ages:
            add("unparsable age", repr(row.age))
        if not row.image:
            add("no image name")
        elif (
            row.row
            and row.values is None
            and ("/" in row.image or "\\" in row.image or row.image in (".", ".."))
        ):
            add("path instead of a file name", repr(row.image))
        elif row.image in seen:
            first = seen[row.image]
            add("duplicate id", f"also in {first.table}{f' row {first.row}' if first.row else ''}")
            if (first.labels, first.values, first.official) != (
                row.labels,
                row.values,
                row.official,
            ):  # which of them is true is not known
                add("duplicate id", "contradicted by a later row", first)
        elif row.path is None:
            add("missing file")
        seen.setdefault(row.image, row)
    return problems


def _bad_files(rows: Sequence[Row]) -> list[Problem]:
    """Files that are empty or do not start like an image."""
    rows = [row for row in rows if row.path is not None]
    found = check_heads([str(row.path) for row in rows], cache_folder())
    return [
        Problem(row.table, row.row, row.image, *wrong)
        for row, wrong in zip(rows, found, strict=True)
        if wrong is not None
    ]


def _records(listing: Listing, source: str) -> tuple[list[tuple], list[str]]:
    """The text columns of the frame, and notes about values that were read as missing."""
    records, odd = [], Counter[str]()
    examples: dict[str, str] = {}
    rows = listing.rows
    ages = {text: _age(text) for text in {row.age for row in rows}}
    lost_ages = {text for text, age in ages.items() if text is not None and age != age}
    views = _VIEWS | ({LATERAL: LATERAL} if listing.tells_views else {})
    for row in rows:
        age = ages[row.age]
        sex = _SEXES.get((row.sex or "").upper())
        view = views.get((row.view or "").upper())
        for what, text, lost in (
            (_ODD_AGES, row.age, row.age in lost_ages),
            ("sexes other than M and F", row.sex, sex is None),
            ("views other than PA and AP", row.view, view is None and not listing.tells_views),
        ):
            if lost and text is not None:
                odd[what] += 1
                examples.setdefault(what, f"{text!r} of {row.image}")
        records.append(
            (
                row.image,
                row.path,
                patient_of(row.image, row.patient),
                age,
                sex,
                view,
                source,
                row.official,
            )
        )
    return records, [
        f"{count:,} {what} were read as missing, as {examples[what]}" for what, count in odd.items()
    ]


def _age(text: str | None) -> float | None:
    """'57', '058Y' or '018M' in years; NaN where empty or impossible; None where it is no age at
    all."""
    if text is None:
        return np.nan
    match = _AGE.match(text)
    if match is None:
        return None
    years = float(match[1]) / _UNITS_PER_YEAR[match[2].upper()]
    return years if 0 <= years <= _OLDEST else np.nan


def _read_boxes(listing: Listing, images: set[str]) -> tuple[pd.DataFrame, list[Problem]]:
    boxes, problems, unlisted = [], [], 0
    for line, cells in listing.boxes:
        image, finding = cells[0].strip(), canonical_finding(cells[1]) if len(cells) > 1 else None
        try:
            numbers = [float(cell) for cell in cells[2:6]]
        except ValueError:
            numbers = []
        possible = len(numbers) == 4 and all(map(math.isfinite, numbers)) and min(numbers[2:]) > 0
        if not possible or finding in (None, NO_FINDING):
            problems.append(
                Problem(listing.boxes_table, line, image, "unusable box", repr(",".join(cells)))
            )
        elif image in images:
            boxes.append((image, finding, *numbers))
        else:
            unlisted += 1
    if unlisted:
        listing.notes.append(
            f"{unlisted:,} boxes of {listing.boxes_table} are of images that are not listed"
        )
    return pd.DataFrame(boxes, columns=BOX_COLUMNS), problems


NUMBERED = re.compile(r"^(.*\d+)[_-](?:[A-Za-z]+[_-])?\d+\.\w+$")
"""p012_1.png, person12_bacteria_34.jpeg: a patient, perhaps a word, and the number of the image."""


@dataclass(frozen=True)
class Dataset:
    """What a set of folders holds.

    frame: one row per image, with `image` (unique id), `path` (absolute), `patient`
    (population:id), `age` (years or
        NaN), `sex` ('M', 'F' or missing), `view` ('PA', 'AP', 'LATERAL' or missing), `source`
        (folder name), `official` ('trainval', 'train', 'val', 'test' or missing), then a float
        column per finding of FINDINGS: 1 present, 0 absent, NaN not annotated or uncertain.
    layouts: folder -> which layout was found there. bad_rows: source, row, image, reason of what
    cannot be used. phantom: any folder holds a file PHANTOM. boxes: image, finding, x, y, w, h in
    pixels of the original image. submission: ids of the images of an unlabelled test.csv, in its
    order. warnings: sentences worth reading. doubts: image, finding and value of labels that are
    uncertain (-1) or on which readers disagree (the share who see it); see `datasets.labels`.
    """

    frame: pd.DataFrame
    layouts: dict[str, str]
    bad_rows: pd.DataFrame
    phantom: bool
    boxes: pd.DataFrame
    submission: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    doubts: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=DOUBT_COLUMNS))


def read_dataset(
    folders: Sequence[Path | str] | Path | str,
    *,
    on_bad: Literal["raise", "skip"] = "raise",
    views: str | Sequence[str] = "frontal",
) -> Dataset:
    """Read and merge dataset folders; where several hold an image, the one that annotates most
    findings wins.

    Checks that every listed file is there, is not empty and starts like an image; whether it
    decodes to its end shows when the image cache is built (`lib.datasets.cache`). With
    on_bad='skip' rows that cannot be used are left out and returned as `bad_rows`. Images of other
    `views` (as in Config) are left out and counted in a warning. Raises DatasetError: with
    on_bad='raise' for any such row (one error for all), always for a folder without a known layout,
    a table that cannot be read, or when no row is left.
    """
    if on_bad not in ("raise", "skip"):
        raise ValueError(f"on_bad must be 'raise' or 'skip', got {on_bad!r}")
    paths, sources = _folders(folders)
    listings = [read_listing(path) for path in paths]
    for listing, source in zip(listings, sources, strict=True):
        select_views(listing, views, source)
    parts = [check_rows(listing, source) for listing, source in zip(listings, sources, strict=True)]
    errors = "\n".join(part.error for part in parts if part.error)
    if errors and on_bad == "raise":
        whole = "Images were not decoded for this; `cxr data check FOLDER` decodes them too and names every problem."
        advice = "Repair the data, or leave these rows out and have them listed: on_bad=skip."
        raise DatasetError(f"{errors}\n{advice}\n{whole}")
    bad = pd.concat([part.bad for part in parts], ignore_index=True)
    if not any(len(part.frame) for part in parts):
        raise DatasetError(
            f"{', '.join(map(str, paths))}: no image that can be used.\n{errors}".rstrip()
        )
    named = zip(parts, paths, listings, sources, strict=True)
    frame, merge_notes = _merge([_with_populations(part.frame, *where) for part, *where in named])
    notes = [
        f"{source}: {note}"
        for source, part in zip(sources, parts, strict=True)
        for note in part.notes
    ]
    notes += [
        note
        for source, part in zip(sources, parts, strict=True)
        for note in _patient_notes(part.frame, source)
    ]
    return Dataset(
        frame=frame,
        layouts={str(path): listing.layout for path, listing in zip(paths, listings, strict=True)},
        bad_rows=bad,
        phantom=any((path / "PHANTOM").is_file() for path in paths),
        boxes=_joined([part.boxes for part in parts]),
        submission=tuple(dict.fromkeys(image for part in parts for image in part.submission)),
        warnings=tuple(notes + merge_notes),
        doubts=_joined([part.doubts for part in parts], ["image", "finding"]),
    )


def _folders(folders: Sequence[Path | str] | Path | str) -> tuple[list[Path], list[str]]:
    """Absolute paths, and a name for each: the folder's, or its path where two folders have the
    same name."""
    given = [folders] if isinstance(folders, str | Path) else folders
    paths = [Path(folder).expanduser().absolute() for folder in given]
    if not paths or len(set(paths)) != len(paths):
        raise DatasetError(
            f"name one or more different dataset folders; got {', '.join(map(str, paths)) or 'none'}."
        )
    names = [path.name for path in paths]
    return paths, [str(path) if names.count(path.name) > 1 else path.name for path in paths]


def _with_populations(
    frame: pd.DataFrame, folder: Path, listing: Listing, source: str
) -> pd.DataFrame:
    """Patients as population:id. Equal ids are one person only within a population.

    Each layout says whose patients its images show: the NIH release, the Kaggle sample and the
    challenge sets are of the same people, and so is any image with an NIH name; phantoms are
    another population, and every folder of classes is its own.
    """
    named = listing.population or source.replace(":", "_")
    population = pd.Series(named, index=frame.index, dtype="str")
    population[frame["image"].str.fullmatch(NIH_NAME.pattern, case=False)] = NIH
    if (folder / "PHANTOM").is_file():
        population[:] = "phantom"
    return frame.assign(population=population, patient=population + ":" + frame["patient"])


def _patient_notes(frame: pd.DataFrame, source: str) -> list[str]:
    """A warning where no image has a patient; with an example where file names look as if they held
    one."""
    if frame.empty or frame["patient"].notna().any():
        return []
    names = frame["image"].str.rsplit("/").str[-1]
    stems = names.str.extract(NUMBERED.pattern, expand=False)
    shared = names[stems.notna() & stems.duplicated(keep=False)]
    note = (
        f"{source}: no patient is known, so each of {len(frame):,} images counts as its own patient"
    )
    if len(shared) < len(frame) / 4:
        return [f"{note}; several images of one person may stand in different splits"]
    example = f"{shared.iloc[0]!r} looks like patient {stems[shared.index[0]]!r}"
    advice = "list Image Index, Finding Labels and Patient ID in sample_labels.csv, with the images in images/"
    return [
        f"{note}, but {example}, so that people may stand in two splits; to declare them, {advice}"
    ]


def _merge(frames: list[pd.DataFrame]) -> tuple[pd.DataFrame, list[str]]:
    """One row per image. Per column the fullest source that knows a value wins, the first named one
    of equals."""
    frame = pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
    findings = list(FINDINGS)
    test = set(frame.loc[frame["official"] == "test", "image"])
    order = frame["image"].drop_duplicates()
    notes = []
    if len(order) < len(frame):
        twice = frame["image"].duplicated(keep=False)
        by_image = frame[twice].groupby("image", sort=False)
        clash = (by_image[findings].max() != by_image[findings].min()) & by_image[
            findings
        ].max().notna()
        if n_clash := int(clash.any(axis=1).sum()):
            example = clash.index[clash.any(axis=1)][0]
            names = ", ".join(clash.columns[clash.loc[example]])
            what = "images are labelled differently by two sources (the fuller one wins)"
            notes.append(f"{n_clash:,} {what}, as {example} on {names}")
        fullest = (
            frame[findings].notna().sum(axis=1).sort_values(ascending=False, kind="stable").index
        )
        merged = (
            frame.loc[fullest][twice.loc[fullest]]
            .groupby("image", sort=False)
            .first()
            .reset_index()
        )
        frame = pd.concat([frame[~twice], merged], ignore_index=True)
        frame = frame.set_index("image").loc[order].reset_index()
    frame["patient"] = frame["patient"].fillna(frame["population"] + ":" + frame["image"])
    frame.loc[frame["image"].isin(test), "official"] = "test"
    return frame.drop(columns="population"), notes


def _joined(tables: Sequence[pd.DataFrame], key: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows of several tables, the first of equal ones."""
    return pd.concat(tables, ignore_index=True).drop_duplicates(key, ignore_index=True)
