"""How far a smaller network answers as its teacher does, beyond AUROC.

In: the folder of a study with compressed arms. Out: per arm the calibration error, the share of
changed flags and the agreement of heat maps, each over the same test films as the reference arm.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import t as student

from lib.comparison.arms import RunPredictions, read_run_predictions
from lib.compression.detection import FILMS as DETECTED
from lib.compression.detection import detection
from lib.compression.images import read_run_films
from lib.exceptions import RunError
from lib.files import read_json
from lib.inference.predictor import Predictor
from lib.metrics.calibration import calibration_scores
from lib.metrics.scores import HALF, MACRO
from lib.models.heatmaps import heat_maps
from lib.runs.study import read_runs

FILMS = 64
OTHER_SEEDS = "reference, other seeds"
"""The row that says how far the reference arm agrees with itself: what chance alone changes."""
NONE = (np.nan, np.nan, np.nan)


def agreement_table(folder: Path, films: int = FILMS) -> pd.DataFrame:
    """Return one row per arm of the study in `folder`, after a row OTHER_SEEDS where the reference
    has several seeds.

    Columns: arm, runs; ece, ece_least, ece_most (expected calibration error of the calibrated
    probabilities, the mean over findings, and its range over runs); flags, flags_low, flags_high
    (share of film and finding whose flag is not the reference's, of the same seed and fold);
    heat_maps, heat_maps_low, heat_maps_high (correlation with the reference's heat map, over the
    places of the map, of the finding whose map is strongest there; of the first `films` test films
    of each run, 0 for none: NaN). Intervals are 95 %, over patients. An arm that predicts another
    number of findings has NaN everywhere. Raises RunError where no run
    of the reference arm is complete, and ExportError for a backbone without heat maps.
    """
    table = read_runs(folder)
    runs = table[~table["prerequisite"].astype(bool)]
    keys = {row.run: (row.seed, row.fold) for row in runs.itertuples()}
    reference = runs["is_reference"].astype(bool)
    teachers = {keys[run]: run for run in runs.loc[reference, "run"]}
    if not teachers:
        raise RunError(f"{folder}: no run of the reference arm is complete; run the study first")
    maps = _Maps(folder, films)
    same = runs["findings"] == runs.loc[reference, "findings"].iloc[0]
    comparable = set(runs.loc[same, "run"])
    pairs = {
        arm: [
            (run, teachers[keys[run]])
            for run in part["run"]
            if keys[run] in teachers and run in comparable
        ]
        for arm, part in runs.groupby("arm", sort=False)
    }
    others = {
        OTHER_SEEDS: [
            (one, other)
            for (seed, fold), one in teachers.items()
            for (second, same), other in teachers.items()
            if fold == same and seed < second
        ]
    }
    every = {name: made for name, made in others.items() if made} | pairs
    return pd.DataFrame([_row(folder, arm, made, maps) for arm, made in every.items()])


def files_agreement(
    models: Mapping[str, Path],
    run: RunPredictions,
    answered: Mapping[str, Mapping[str, np.ndarray]],
    images: np.ndarray,
) -> pd.DataFrame:
    """Return one row per exported file of one run; the first file is the reference.

    models: name -> file; run: the test targets and patients of `images` (N, S, S) uint8; answered:
    name -> the file's outputs for them, see `lib.inference.run_file`. Columns: model, ece, flags,
    heat_maps and detection, the last three with intervals, as in `agreement_table` and
    `detection_table`.
    """
    predictors = {name: Predictor(path) for name, path in models.items()}
    first = next(iter(models))
    raised = {
        name: answered[name]["probs"] >= np.nan_to_num(one.thresholds, nan=HALF)
        for name, one in predictors.items()
    }
    rows = []
    for name, one in predictors.items():
        scores = calibration_scores(run.targets, answered[name]["probs"], run.findings)
        flags = (raised[name] != raised[first]).mean(axis=1)
        alike = map_agreement(answered[name]["heatmaps"], answered[first]["heatmaps"])
        row = {"model": name, "ece": scores.set_index("finding").loc[MACRO, "ece"]}
        parts = {
            "flags": mean_over_patients(flags, run.patients),
            "heat_maps": mean_over_patients(
                alike[~np.isnan(alike)], run.patients[~np.isnan(alike)]
            ),
            "detection": detection(one, images[:DETECTED], run.patients[:DETECTED]),
        }
        for what, found in parts.items():
            row |= dict(zip((what, f"{what}_low", f"{what}_high"), found, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def _row(folder: Path, arm: str, pairs: Sequence[tuple[str, str]], maps: "_Maps") -> dict[str, Any]:
    errors = [calibration_error(folder / run) for run, _ in pairs]
    flags = [_changed(folder / run, folder / other) for run, other in pairs]
    alike = [maps.agreement(run, other) for run, other in pairs]
    row: dict[str, Any] = {"arm": arm, "runs": len(pairs)}
    if not pairs:
        return row
    row |= {"ece": np.mean(errors), "ece_least": min(errors), "ece_most": max(errors)}
    for name, parts in (("flags", flags), ("heat_maps", alike)):
        values, patients = (np.concatenate(one) for one in zip(*parts, strict=True))
        known = ~np.isnan(values)
        found = mean_over_patients(values[known], patients[known])
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))
    return row


def calibration_error(folder: Path) -> float:
    """Return the mean over findings of a run's expected calibration error after calibration."""
    table = pd.read_csv(folder / "calibration.csv").set_index("finding")
    return float(table.loc[MACRO, "ece_calibrated"])


def _changed(run: Path, other: Path) -> tuple[np.ndarray, np.ndarray]:
    one, reference = read_run_predictions(run), read_run_predictions(other)
    return changed_flags(one, reference), reference.patients


def changed_flags(run: RunPredictions, reference: RunPredictions) -> np.ndarray:
    """Return the share of findings of each test film (N,) for which one of two runs raises a flag
    and the other does not, each at its own thresholds; 0.5 stands for one that is NaN.

    Raises RunError where the runs answer other films or findings.
    """
    if run.findings != reference.findings or list(run.images) != list(reference.images):
        raise RunError(f"{run.run} and {reference.run} do not answer the same films and findings")
    raised = [
        one.probs >= np.where(np.isnan(one.thresholds), HALF, one.thresholds)
        for one in (run, reference)
    ]
    return (raised[0] != raised[1]).mean(axis=1)


def mean_over_patients(values: np.ndarray, patients: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of values (N,) and its 95 % interval, for films of which those of one patient
    belong together.

    The mean is a ratio of sums over patients; its variance is linearised (Cochran 1977, "Sampling
    techniques", section 6.3), the interval Student's. NaN where there is no value, and no interval
    for one patient.
    """
    if not len(values):
        return NONE
    mean = float(values.mean())
    _, codes = np.unique(patients, return_inverse=True)
    rest = np.bincount(codes, values - mean)
    count = len(rest)
    if count < 2:
        return mean, np.nan, np.nan
    error = np.sqrt(count / (count - 1) * (rest**2).sum()) / len(values)
    reach = float(student.ppf(0.975, count - 1) * error)
    return mean, mean - reach, mean + reach


class _Maps:
    """Heat maps of runs for the first films of the reference's test sets, each computed once."""

    def __init__(self, folder: Path, films: int) -> None:
        self.folder, self.films = folder, films
        self._shown: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._maps: dict[tuple[str, str], np.ndarray] = {}

    def agreement(self, run: str, other: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the agreement of each film (N,), and its patients; nothing where none is asked
        for."""
        if not self.films:
            return np.empty(0), np.empty(0, str)
        if other not in self._shown:
            card = read_json(self.folder / other / "card.json")
            found = read_run_films(self.folder / other, card)
            self._shown[other] = found.test[: self.films], found.test_patients[: self.films]
        images, patients = self._shown[other]
        one, reference = (self._of(name, other, images) for name in (run, other))
        return map_agreement(one, reference), patients

    def _of(self, run: str, other: str, images: np.ndarray) -> np.ndarray:
        if (run, other) not in self._maps:
            self._maps[run, other] = heat_maps(self.folder / run, images)
        return self._maps[run, other]


def map_agreement(maps: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return how alike two networks' heat maps (N, F, h, w) of each film are: (N,).

    Of the finding whose map is strongest in `reference`, the correlation over the places of the
    map; maps of another size are resized to the reference's (bilinear). NaN where a map is the same
    everywhere.
    """
    count, findings = reference.shape[:2]
    strongest = reference.reshape(count, findings, -1).max(axis=2).argmax(axis=1)
    rows = np.arange(count)
    one = torch.from_numpy(maps[rows, strongest][:, None].astype(np.float32))
    one = F.interpolate(one, reference.shape[2:], mode="bilinear", align_corners=False)
    pairs = zip(one[:, 0].numpy(), reference[rows, strongest], strict=True)
    return np.array([_correlation(a.ravel(), b.ravel()) for a, b in pairs])


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan
    return float(np.corrcoef(a, b)[0, 1])
