"""Measure time and memory of the bootstrap over patients against a loop over scikit-learn.

`python -m benchmarks.intervals` prints the seconds and the peak memory of the bootstrap alone, in a
process that does nothing else.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.timing import Row
from lib.config import FINDINGS
from lib.metrics.bootstrap import bootstrap_scores, resample_counts
from lib.system import peak_memory_mb

IMAGES, PATIENTS, RESAMPLES, LOOPED = 22_433, 6_300, 1000, 3


def interval_rows() -> list[Row]:
    """Measure 1,000 resamples of patients with 14 findings and 22,433 images.

    Both compute AUROC and average precision; ours computes F1 too. The loop is measured on a few of
    the same resamples and scaled. Raises ValueError when results differ by more than 1e-9.
    """
    targets, probs, patients, kind = _answers()
    words = [sys.executable, "-m", "benchmarks.intervals"]
    seconds, peak, before = map(
        float, subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    )
    scores = bootstrap_scores(targets, probs, patients, n=LOOPED)
    start = time.perf_counter()
    looped = _loop(targets, probs, patients)
    other = (time.perf_counter() - start) / LOOPED * RESAMPLES
    for metric, expected in looped.items():
        worst = np.nanmax(np.abs(scores[metric] - expected))
        if worst > 1e-9:
            raise ValueError(f"{metric} of a resample differs from scikit-learn's by {worst:.2g}")
    what = f"bootstrap of {RESAMPLES:,} resamples x {len(FINDINGS)} findings x {len(targets):,} images ({kind})"
    against = f"a loop over scikit-learn, {LOOPED} resamples measured and scaled; equal to 1e-9"
    return [
        Row(what, "bootstraps/s", 1 / seconds, 1 / other, against, ">= 40"),
        Row(
            f"{what}: peak memory of its process",
            "MiB",
            peak,
            None,
            f"{before:.0f} MiB before it",
            "< 1024",
        ),
    ]


def _loop(targets: np.ndarray, probs: np.ndarray, patients: np.ndarray) -> dict[str, np.ndarray]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    codes, names = pd.factorize(patients, sort=True)
    of_patient = [np.flatnonzero(codes == k) for k in range(len(names))]
    scores: dict[str, list] = {"auroc": [], "average_precision": []}
    for counts in resample_counts(len(names), LOOPED, seed=0).astype(int):
        rows = np.concatenate([of_patient[k] for k in np.repeat(np.arange(len(names)), counts)])
        columns = list(zip(targets[rows].T, probs[rows].T, strict=True))
        scores["auroc"].append([roc_auc_score(y, p) for y, p in columns])
        scores["average_precision"].append([average_precision_score(y, p) for y, p in columns])
    return {metric: np.array(values) for metric, values in scores.items()}


def _answers() -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Return targets and probabilities (N, 14), patients (N,), and what they are.

    They are predictions of a published model if available, else synthetic.
    """
    path = (
        Path(os.environ.get("CXR_REAL_DATA", "")) / "predictions" / "reproduce_chexnet_test.csv.gz"
    )
    if path.is_file():
        frame = pd.read_csv(path)
        columns = [[f"{kind}_{name}" for name in FINDINGS] for kind in ("target", "prob")]
        targets, probs = (frame[names].to_numpy(float) for names in columns)
        return targets, probs, frame["patient_id"].to_numpy(str), "real predictions"
    rng = np.random.default_rng(0)
    targets = (rng.random((IMAGES, len(FINDINGS))) < 0.08).astype(float)
    probs = 1 / (1 + np.exp(-(rng.normal(size=targets.shape) + 1.4 * targets - 2.5)))
    return targets, probs, rng.integers(PATIENTS, size=IMAGES).astype(str), "synthetic"


def _alone() -> None:
    targets, probs, patients, _ = _answers()
    bootstrap_scores(targets[:1000], probs[:1000], patients[:1000], n=10)  # loads lazy imports
    before = peak_memory_mb()
    start = time.perf_counter()
    bootstrap_scores(targets, probs, patients, n=RESAMPLES)
    print(time.perf_counter() - start, peak_memory_mb(), before)


if __name__ == "__main__":
    _alone()
