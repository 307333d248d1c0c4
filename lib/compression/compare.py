"""Compare the exports of one run.

In: exported files and their test predictions. Out: size, speed, memory and AUROC side by side, with
intervals.
"""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lib.comparison.arms import RunPredictions, arm_scores, differences
from lib.config import REPO_ROOT
from lib.exceptions import ExportError
from lib.inference.predictor import Predictor
from lib.inference.session import latencies_ms
from lib.metrics.scores import MACRO


def compare_exports(
    models: Mapping[str, Path], run: RunPredictions, probs: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Return one row per model; the first model is the reference.

    - models: the file of each model by name.
    - run: test targets, patients and thresholds (`comparison.arms.read_run_predictions`).
    - probs: (N, F) predictions of each model for the images of `run`.

    Columns: megabytes, auroc, low, high (macro, 95 %, over patients), change, change_low,
    change_high (against the first, paired), prob_max (largest change of a probability),
    milliseconds (one image, two threads, the models taking turns), memory_mb (peak of a process
    that only predicts). Raises ExportError when the shape of probs does not match the targets.
    """
    size = Predictor(next(iter(models.values()))).image_size
    speed = latencies_ms(models, size)
    answers, rows = {}, []
    for name, path in models.items():
        if probs[name].shape != run.targets.shape:
            raise ExportError(
                f"{name} has predictions of shape {probs[name].shape}, but the targets are "
                f"{run.targets.shape}; use the same images"
            )
        answers[name] = replace(
            run, run=name, probs=probs[name].astype(float), scored=None, folder=None
        )
        first = next(iter(answers.values()))
        score = _macro(arm_scores([answers[name]]))
        change = _macro(differences([answers[name]], [first]))
        row = {
            "model": name,
            "megabytes": path.stat().st_size / 2**20,  # as the card and the export count
            "auroc": score["value"],
            "low": score["low"],
        }
        row |= {"high": score["high"], "change": change["difference"]}
        row |= {"change_low": change["low"], "change_high": change["high"]}
        row |= {
            "prob_max": np.abs(answers[name].probs - first.probs).max(),
            "milliseconds": speed[name],
        }
        rows.append({**row, "memory_mb": peak_memory_mb_of(path)})
    return pd.DataFrame(rows)


def _macro(table: pd.DataFrame) -> pd.Series:
    return table[(table["metric"] == "auroc") & (table["finding"] == MACRO)].iloc[0]


def peak_memory_mb_of(path: Path) -> float:
    """Return the peak memory in MiB of a process that only predicts with the file at `path`."""
    words = [sys.executable, "-m", "lib.inference.session", str(path.resolve())]
    return float(
        subprocess.run(words, cwd=REPO_ROOT, capture_output=True, text=True, check=True).stdout
    )
