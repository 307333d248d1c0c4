"""In: a dataset folder. Out: a `FolderReport`: layout, images, patients, findings, and every
problem, as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib.config import FINDINGS
from lib.datasets.cache import decode_problems, open_cache, without_undecodable
from lib.datasets.duplicates import duplicates_text
from lib.datasets.labels import UNCERTAIN
from lib.datasets.source_probe import (
    film_features,
    probe_sources,
    sample_sources,
    size_features,
    sources_text,
)
from lib.datasets.tables import Dataset, read_dataset
from lib.exceptions import DatasetError
from lib.images.pixels import original_size

COMPARED_AT = 64  # pixels per side at which copies are looked for


@dataclass(frozen=True)
class FolderReport:
    """What is in a folder. `counts` (14 rows): positives, negatives, not annotated; `problems` as
    Dataset.bad_rows.

    `failure` says why the folder could not be read at all; then nothing else is known.
    """

    folder: Path
    layout: str
    images: int
    patients: int
    counts: pd.DataFrame
    problems: pd.DataFrame
    warnings: tuple[str, ...]
    failure: str = ""

    @property
    def ok(self) -> bool:
        return not self.failure and self.problems.empty

    def text(self) -> str:
        """Everything, one problem per line."""
        if self.failure:
            return self.failure
        lines = [
            f"{self.folder}",
            f"layout    {self.layout}",
            f"images    {self.images:,}",
            f"patients  {self.patients:,}",
            "",
            self.counts.to_string(),
            "",
            *(f"note: {warning}" for warning in self.warnings),
            f"{len(self.problems):,} problems" if len(self.problems) else "no problems",
        ]
        for source, row, image, reason in self.problems.itertuples(index=False):
            lines.append(
                f"  {source}{f' row {row}' if row else ''}: {image or '(no name)'}: {reason}"
            )
        return "\n".join(lines)


def check_folder(
    folder: Path | str, *, workers: int | None = None, progress: bool = True
) -> FolderReport:
    """Read a folder and decode every image in it; nothing is raised for what is wrong with it, `ok`
    says so."""
    folder = Path(folder).expanduser().absolute()
    try:
        dataset = read_dataset([folder], on_bad="skip")
    except DatasetError as error:
        return FolderReport(folder, "", 0, 0, pd.DataFrame(), pd.DataFrame(), (), str(error))
    undecodable = decode_problems(dataset.frame, workers=workers, progress=progress)
    frame = dataset.frame[~dataset.frame["image"].isin(undecodable["image"])]
    copies = (
        duplicates_text(frame, open_cache(frame, COMPARED_AT, workers=workers, progress=progress))
        if len(frame)
        else ()
    )
    return FolderReport(
        folder=folder,
        layout=dataset.layouts[str(folder)] + (", synthetic phantoms" if dataset.phantom else ""),
        images=len(frame),
        patients=frame["patient"].nunique(),
        counts=_counts(frame),
        problems=pd.concat([dataset.bad_rows, undecodable], ignore_index=True),
        warnings=dataset.warnings + _parts(dataset) + _doubts(dataset) + copies,
    )


def check_overlap(folders: Sequence[Path]) -> str:
    """What each of several folders adds beyond the others: images, patients and labels; a warning
    where none."""
    frames = {folder: read_dataset([folder], on_bad="skip").frame for folder in folders}
    lines = []
    for folder, frame in frames.items():
        others = pd.concat([other for name, other in frames.items() if name != folder])
        images = len(set(frame["image"]) - set(others["image"]))
        patients = len(set(frame["patient"]) - set(others["patient"]))
        labels = len(_labels(frame).difference(_labels(others)))
        lines.append(
            f"{folder} adds {images:,} images, {patients:,} patients and {labels:,} labels beyond the others"
        )
        if not images:
            lines.append(
                f"warning: all images of {folder} are in the others: a stage trained on it sees no new image"
            )
    return "\n".join(lines)


def check_sources(
    folders: Sequence[Path], *, workers: int | None = None, progress: bool = True
) -> str:
    """How well a small model tells the films of several folders apart, in words; empty where only
    one of them holds films of its own."""
    frame = read_dataset(folders, on_bad="skip").frame
    sample, _ = without_undecodable(
        sample_sources(frame), COMPARED_AT, workers=workers, progress=progress
    )
    if sample["source"].nunique() < 2:
        return ""
    images = open_cache(sample, COMPARED_AT, workers=workers, progress=progress)
    sizes = np.array([original_size(path) for path in sample["path"]])
    features = film_features(images), size_features(sizes)
    films, files = (probe_sources(one, sample["source"], sample["patient"]) for one in features)
    return sources_text(films, files, frame)


def _labels(frame: pd.DataFrame) -> pd.Index:
    """The (image, finding) pairs that are annotated."""
    return frame.set_index("image")[list(FINDINGS)].stack().dropna().index.unique()


def _counts(frame: pd.DataFrame) -> pd.DataFrame:
    targets = frame[list(FINDINGS)]
    counts = {
        "present": (targets == 1).sum(),
        "absent": (targets == 0).sum(),
        "not annotated": targets.isna().sum(),
    }
    return pd.DataFrame(counts)


def _doubts(dataset: Dataset) -> tuple[str, ...]:
    """How many labels are uncertain, and on how many the readers disagree."""
    uncertain = int((dataset.doubts["value"] == UNCERTAIN).sum())
    shared = len(dataset.doubts) - uncertain
    notes = [f"{uncertain:,} labels are uncertain (-1): see `uncertain` in Config"] * bool(
        uncertain
    )
    notes += [f"readers disagree on {shared:,} labels: see `readers` in Config"] * bool(shared)
    return tuple(notes)


def _parts(dataset: Dataset) -> tuple[str, ...]:
    counts = dataset.frame["official"].value_counts()
    return (
        (f"official lists: {', '.join(f'{part} {n:,}' for part, n in counts.items())}",)
        if len(counts)
        else ()
    )
