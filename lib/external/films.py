"""In: a dataset folder, and what a model knows. Out: `Films`: the labelled images that it may be asked
about, and every image that is left out, with the reason."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from lib.comparison.words import count_text
from lib.config import FINDINGS
from lib.datasets.cache import open_cache, without_undecodable
from lib.datasets.layouts import NIH
from lib.datasets.tables import Dataset, read_dataset
from lib.exceptions import DatasetError

NO_LABEL = "no label of a finding that the model knows"
UNUSABLE = "cannot be used"
LEFT_OUT = ["image", "reason", "by", "detail"]
NIH_SETS = (NIH, "chestmnist")
"""Populations that were drawn from the NIH's films."""


@dataclass(frozen=True)
class Films:
    """The films of another set.

    data: as `datasets.read_dataset` gives it. frame: the rows that are asked about. left_out: of all
    others image, reason, by what it was found (patient, image id, radiograph) and detail.
    """

    folder: Path
    data: Dataset
    frame: pd.DataFrame
    left_out: pd.DataFrame
    findings: tuple[str, ...]

    @cached_property
    def populations(self) -> set[str]:
        """Whose patients the films show, as datasets name them."""
        return set(self.data.frame["patient"].str.partition(":")[0])

    @property
    def targets(self) -> np.ndarray:
        """(N, F)"""
        return self.frame[list(self.findings)].to_numpy(float)

    def without(
        self, rows: np.ndarray, reason: str, details: np.ndarray, by: np.ndarray | str = ""
    ) -> "Films":
        """The films but those where rows (N,) is true; they are noted with the reason, details (N,)
        and by (N,)."""
        gone = pd.DataFrame({"image": self.frame["image"][rows], "reason": reason})
        gone = gone.assign(by=by[rows] if isinstance(by, np.ndarray) else by, detail=details[rows])
        left_out = pd.concat([self.left_out, gone], ignore_index=True)
        return replace(
            self, frame=self.frame[~rows].reset_index(drop=True), left_out=left_out[LEFT_OUT]
        )


def read_films(folder: Path, findings: tuple[str, ...]) -> Films:
    """The films of `folder` that are labelled for at least one of `findings`; frontal ones alone where
    the set tells views.

    Raises DatasetError for a folder that cannot be read, without frontal films, without labels, or
    without a finding that the model knows.
    """
    data = read_dataset([folder], on_bad="skip")
    frame = data.frame
    labelled = [name for name in FINDINGS if frame[name].notna().any()]
    if not labelled:
        raise DatasetError(
            f"{folder} holds {count_text(len(frame), 'image')} and no label: an evaluation needs labels; "
            "`cxr predict` answers films without them"
        )
    shared = tuple(name for name in findings if name in labelled)
    if not shared:
        raise DatasetError(
            f"{folder} and the model have no finding in common: the set labels {', '.join(labelled)}, "
            f"the model knows {', '.join(findings)}"
        )
    bad = data.bad_rows
    left_out = bad.assign(detail=bad["reason"], reason=UNUSABLE, by="")
    films = Films(folder, data, frame, left_out[LEFT_OUT], shared)
    silent = frame[list(shared)].isna().all(axis=1).to_numpy()
    return films.without(silent, NO_LABEL, np.full(len(frame), "", object))


def open_films(films: Films, size: int) -> tuple[Films, np.ndarray]:
    """The films that can be decoded, with the column row, and the image cache (M, size, size) uint8
    that row points into."""
    _, bad = without_undecodable(films.frame, size, progress=False)
    if len(bad):
        reasons = films.frame["image"].map(dict(zip(bad["image"], bad["reason"], strict=True)))
        films = films.without(reasons.notna().to_numpy(), UNUSABLE, reasons.to_numpy())
    store = open_cache(films.frame, size, progress=False)
    return replace(films, frame=films.frame.assign(row=np.arange(len(films.frame)))), store


def fingerprint(frame: pd.DataFrame) -> str:
    """Changes with any image's id, patient, label, or size and time of its file."""
    stats = [Path(path).stat() for path in frame["path"]]
    table = frame[["image", "patient", *FINDINGS]].assign(
        bytes=[one.st_size for one in stats], time=[one.st_mtime_ns for one in stats]
    )
    text = table.sort_values("image").to_csv(index=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
