"""In: tables of somebody's predictions, and the runs or labels that they are compared on. Out: arms of
one training each, and sentences about what was matched.

Rows are matched by image id: exactly, else without suffix and case, else by file name without its
folders too; the first way that matches most rows is taken. The order of rows does not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lib.comparison.alignment import check_alignment
from lib.comparison.arms import RunPredictions, Scored
from lib.comparison.prediction_table import PredictionTable
from lib.comparison.words import count_text
from lib.exceptions import ComparisonError
from lib.metrics.predictions import Predictions

IMAGE_SUFFIXES = r"\.(?:png|jpe?g|bmp|tiff?|dcm|dicom)$"
NIH_NAME = r"^(\d{8})_\d{3}$"
WAYS = ("exactly", "without suffix and case", "by file name without folder, suffix and case")


@dataclass(frozen=True)
class External:
    """A table as an arm: its runs, one or with folds one for each, and what to know about it."""

    runs: tuple[RunPredictions, ...]
    notes: tuple[str, ...]


def on_test_images(
    table: PredictionTable, test: Scored, *, seeds: int = 1, skip_unknown: bool = False
) -> External:
    """The predictions for the test images of `test`, a run or the runs of a seed over all folds, with
    its labels and patients.

    seeds: how many trainings the arm of `test` has. With skip_unknown, rows of other images are left
    out and counted. Raises ComparisonError with counts where rows are missing, unknown or doubled,
    labels differ from those of `test`, no finding is shared, or rows and ids do not belong together
    (`alignment.check_alignment`).
    """
    rows, how = _match_all(table, test.images, "the test images", skip_unknown)
    shared = tuple(name for name in test.findings if name in table.findings)
    if not shared:
        raise ComparisonError(
            f"{table.name} and {test.run} share no finding: {', '.join(table.findings)} and "
            f"{', '.join(test.findings)}"
        )
    ours = [test.findings.index(name) for name in shared]
    theirs = [table.findings.index(name) for name in shared]
    scores, labels = table.scores[rows][:, theirs], table.targets[rows][:, theirs]
    targets = test.targets[:, ours]
    differ = ((labels != targets) & ~np.isnan(labels) & ~np.isnan(targets)).any(axis=1)
    if differ.any():
        raise ComparisonError(
            f"{table.name} and {test.run}: the labels of {count_text(int(differ.sum()), 'test image')} "
            f"differ, as of {test.images[differ][0]}; remove the columns of labels to use those of the "
            "test images"
        )
    whole = Predictions(shared, test.images, test.patients, targets, scores)
    notes = [*table.notes, _matched(table, len(rows), how, skip_unknown)]
    if lacking := [name for name in test.findings if name not in table.findings]:
        notes.append(f"{table.name} does not answer for {', '.join(lacking)}.")
    notes += check_alignment(whole, rows, table.name)
    notes += _about_training(table, len(test.parts), seeds)
    ends = np.cumsum([len(part.images) for part in test.parts])[:-1]
    parts = zip(test.parts, np.split(scores, ends), np.split(targets, ends), strict=True)
    about = {"run": table.name, "seed": 0, "findings": shared, "scored": None, "folder": None}
    about |= {"thresholds": np.full(len(shared), np.nan), "ranks_only": table.ranks_only}
    made = [replace(part, targets=y, probs=p, **about) for part, p, y in parts]
    return External(tuple(made), tuple(notes))


def on_labels(
    table: PredictionTable, labels: pd.DataFrame | None = None, *, skip_unknown: bool = False
) -> External:
    """The predictions with labels of `labels` (image, patient, findings), or else of the table's own
    columns.

    Patients are those of `labels`, else of the table, else of NIH file names; else every image
    counts as one, and a note says so. Raises ComparisonError as `on_test_images`, and where there
    are no labels.
    """
    notes = list(table.notes)
    rows, targets, listed = np.arange(len(table.images)), table.targets, None
    if labels is not None:
        rows, targets, listed, how = _with_labels(table, labels, skip_unknown)
        notes.append(_matched(table, len(rows), how, skip_unknown))
    elif not table.has_targets:
        raise ComparisonError(
            f"{table.name} has no labels: add columns such as target_{table.findings[0]}, or name a "
            "table of labels with --labels"
        )
    else:
        _no_doubles(table, table.images, "image ids")
    patients, note = _patients(table, rows, listed)
    known = (~np.isnan(targets)).any(axis=0)
    if not known.any():
        raise ComparisonError(f"the labels name none of {', '.join(table.findings)}")
    findings = tuple(name for name, kept in zip(table.findings, known, strict=True) if kept)
    images, order = np.unique(table.images[rows], return_index=True)
    whole = Predictions(
        findings,
        images,
        patients[order],
        targets[order][:, known],
        table.scores[rows][order][:, known],
    )
    notes += [*note, *check_alignment(whole, rows[order], table.name)]
    thresholds = np.full(len(findings), np.nan)
    about = {"run": table.name, "seed": 0, "thresholds": thresholds, "ranks_only": table.ranks_only}
    return External((RunPredictions(**vars(whole), **about),), tuple(notes))


def match_ids(theirs: Sequence[str], ours: Sequence[str]) -> tuple[np.ndarray, str]:
    """For each id of `theirs` its place in `ours`, -1 where it has none (N,); and how ids were
    matched. A way in which two of `ours` are the same id is not taken."""
    best, how = np.full(len(theirs), -1), WAYS[0]
    for way, known, wanted in zip(WAYS, _spellings(ours), _spellings(theirs), strict=True):
        if not known.is_unique:
            continue
        places = known.get_indexer(wanted)
        if (places >= 0).sum() > (best >= 0).sum():
            best, how = places, way
    return best, how


def _spellings(ids: Sequence[str]) -> list[pd.Index]:
    """The ids as they are; without suffix and case; without folders too."""
    exact = pd.Series(np.asarray(ids, dtype=str), dtype="str")
    bare = exact.str.replace("\\", "/").str.lower().str.replace(IMAGE_SUFFIXES, "", regex=True)
    return [pd.Index(exact), pd.Index(bare), pd.Index(bare.str.rsplit("/", n=1).str[-1])]


def _match_all(
    table: PredictionTable, images: np.ndarray, what: str, skip_unknown: bool
) -> tuple[np.ndarray, str]:
    """The table's row of each image (N,), and how ids were matched."""
    places, how = match_ids(table.images, images)
    known = places[places >= 0]
    wrong = []
    if missing := sorted(set(range(len(images))) - set(known)):
        wrong.append(f"{len(missing):,} of {len(images):,} are missing, as {images[missing[0]]}")
    if unknown := int((places < 0).sum()) * (not skip_unknown):
        wrong.append(
            f"{unknown:,} rows are of images that are not among them, as "
            f"{table.images[places < 0][0]} (--skip-unknown leaves them out)"
        )
    if doubled := len(known) - len(set(known)):
        twice = images[pd.Series(known)[pd.Series(known).duplicated()].iloc[0]]
        wrong.append(f"{doubled:,} rows repeat an image, as {twice}")
    if wrong:
        raise ComparisonError(f"the rows of {table.name} do not match {what}: {'; '.join(wrong)}")
    rows = np.empty(len(images), dtype=int)
    rows[known] = np.flatnonzero(places >= 0)
    return rows, how


def _with_labels(
    table: PredictionTable, labels: pd.DataFrame, skip_unknown: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """The table's rows that have labels, their targets (N, F), listed patients (N,), and how ids were
    matched."""
    places, how = match_ids(table.images, labels["image"].to_numpy(str))
    rows = np.flatnonzero(places >= 0)
    if unknown := int((places < 0).sum()) * (not skip_unknown or not len(rows)):
        raise ComparisonError(
            f"{unknown:,} of {len(places):,} rows of {table.name} are of images without a label, as "
            f"{table.images[places < 0][0]}; the labels have {labels['image'].iloc[0]} "
            "(--skip-unknown leaves such rows out)"
        )
    _no_doubles(table, places[rows], "images")
    found = labels.iloc[places[rows]]
    targets = found[list(table.findings)].to_numpy(float)
    own = table.targets[rows]
    differ = ((own != targets) & ~np.isnan(own) & ~np.isnan(targets)).any(axis=1)
    if differ.any():
        raise ComparisonError(
            f"{table.name} has labels of its own, and those of {differ.sum():,} images differ from the "
            f"table of labels, as of {table.images[rows][differ][0]}: remove one of them"
        )
    return rows, targets, found["patient"].to_numpy(object), how


def _no_doubles(table: PredictionTable, ids: np.ndarray, what: str) -> None:
    if doubled := len(ids) - len(np.unique(ids)):
        raise ComparisonError(f"{doubled:,} rows of {table.name} repeat {what}: keep one of each")


def _patients(
    table: PredictionTable, rows: np.ndarray, listed: np.ndarray | None
) -> tuple[np.ndarray, list[str]]:
    """The patient of each of `rows` (N,), and a note where images stand for patients."""
    if listed is not None and pd.notna(listed).all():
        return listed.astype(str), []
    if table.patients is not None:
        return table.patients[rows], []
    names = pd.Series(_spellings(table.images[rows])[-1])
    numbers = names.str.extract(NIH_NAME, expand=False)
    if numbers.notna().all():
        return numbers.to_numpy(str), [f"Patients are from the NIH file names of {table.name}."]
    return table.images[rows], [
        f"{table.name} names no patients, so every image counts as one: intervals are too narrow "
        "where a patient has several images. A column `patient` would widen them."
    ]


def _matched(table: PredictionTable, rows: int, how: str, skip_unknown: bool) -> str:
    left = len(table.images) - rows
    others = f"; {left:,} rows of other images are left out" if skip_unknown and left else ""
    return f"{rows:,} rows of {table.name} match by image id, {how}{others}."


def _about_training(table: PredictionTable, folds: int, seeds: int) -> list[str]:
    """What one training without thresholds, and of unknown training images, means for verdicts."""
    notes = []
    if not table.ranks_only:
        notes.append(
            f"F1 of {table.name} is at a threshold of 0.5, since a file has no validation images; that "
            "of runs is at thresholds from their validation."
        )
    if folds > 1:
        notes.append(
            f"{table.name} is one training for the test patients of all {folds} folds. Whether it "
            "trained on some of them is not known from the file: if it did, its scores are too high "
            "and do not compare."
        )
    if seeds > 1:
        notes.append(
            f"{table.name} is one training: it is assumed that another training of it would differ "
            "as much as those of the other arms do."
        )
    return notes
