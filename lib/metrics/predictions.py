"""In: probabilities and what they are about. Out: `Predictions`, which travel to metrics, files and
comparisons."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib.config import NO_FINDING
from lib.exceptions import RunError
from lib.files import read_table, write_table
from lib.metrics.scores import HALF

ABOUT = ["age", "sex", "view"]


@dataclass(frozen=True)
class Predictions:
    """A model's predictions for N images and F findings.

    images, patients: (N,) ids. targets: (N, F), 1, 0, or NaN where a finding is not annotated.
    probs: (N, F) in [0, 1]. Raises ValueError where the shapes do not fit.
    """

    findings: tuple[str, ...]
    images: np.ndarray
    patients: np.ndarray
    targets: np.ndarray
    probs: np.ndarray

    def __post_init__(self) -> None:
        shape = (len(self.images), len(self.findings))
        if not (
            self.targets.shape == self.probs.shape == shape
            and len(self.patients) == len(self.images)
        ):
            raise ValueError(
                f"{len(self.images)} images, {len(self.patients)} patients and {len(self.findings)} findings, but "
                f"targets {self.targets.shape} and probs {self.probs.shape}"
            )


def write_predictions(
    path: Path, predictions: Mapping[str, Predictions], frame: pd.DataFrame
) -> None:
    """Writes image, patient, age, sex, view, source, split, then target_* and prob_* of each finding,
    split after split.

    predictions: split -> Predictions. frame: the data set's, with the images' age, sex and view, and
    their source where it has one.
    """
    about = [*ABOUT, *(["source"] if "source" in frame else [])]
    people = frame.set_index("image")[about]
    parts = []
    for split, one in predictions.items():
        part = pd.DataFrame({"image": one.images, "patient": one.patients})
        part = part.assign(
            **{name: people[name].loc[one.images].to_numpy() for name in about}, split=split
        )
        values = {"target": one.targets, "prob": one.probs}
        named = [
            pd.DataFrame(array, columns=one.findings).add_prefix(f"{kind}_")
            for kind, array in values.items()
        ]
        parts.append(pd.concat([part, *named], axis=1))
    write_table(path, pd.concat(parts, ignore_index=True))


def write_submission(path: Path, predictions: Predictions, thresholds: np.ndarray) -> None:
    """The leaderboard's file `imageID,disease`: findings at or above their threshold joined with |,
    else No Finding.

    thresholds: (F,), 0.5 where NaN.
    """
    called = predictions.probs >= np.where(np.isnan(thresholds), HALF, thresholds)  # (N, F)
    names = ["|".join(np.asarray(predictions.findings)[row]) or NO_FINDING for row in called]
    write_table(path, pd.DataFrame({"imageID": predictions.images, "disease": names}))


def read_predictions(path: Path, split: str = "test") -> Predictions:
    """The predictions of one split, sorted by image; raises RunError where the file is damaged or
    the split empty."""
    frame = read_table(path).query("split == @split").sort_values("image")
    findings = tuple(
        name.removeprefix("prob_") for name in frame.columns if name.startswith("prob_")
    )
    missing = {"image", "patient", *(f"target_{name}" for name in findings)} - set(frame.columns)
    if missing or not findings:
        raise RunError(
            f"{path} lacks {', '.join(sorted(missing)) or 'prob_*'}: it holds no predictions of a run"
        )
    if frame.empty:
        raise RunError(f"{path} has no images of the split {split!r}")
    columns = [
        frame[[f"{kind}_{name}" for name in findings]].to_numpy(float)
        for kind in ("target", "prob")
    ]
    return Predictions(
        findings, frame["image"].to_numpy(str), frame["patient"].to_numpy(str), *columns
    )
