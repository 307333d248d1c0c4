"""In: a frame of images. Out: the test fold of every patient, the same for all stages, arms and
seeds."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.config import FINDINGS
from lib.datasets.splits import patient_id, unit_hash
from lib.exceptions import SplitError

ORDER_SEED = 0  # of the order in which patients are dealt out: one division for all runs


def divide_patients(
    frame: pd.DataFrame, folds: int, findings: Sequence[str] = FINDINGS
) -> pd.Series:
    """The fold (0 to folds - 1) in which each patient is tested: a Series by patient.

    frame: columns patient and `findings` (1, 0, NaN), one row per image. Patients are dealt out by
    iterative stratification (Sechidis et al. 2011, "On the stratification of multi-label data"):
    those with the rarest finding first, each to the fold with the fewest patients of that finding,
    then to the smallest; patients without a finding last. It depends on patients and labels alone,
    neither on the order of rows nor on a seed. Raises SplitError where there are fewer patients
    than folds.
    """
    positive = (frame[list(findings)] == 1).groupby(frame["patient"]).any()
    if len(positive) < folds:
        raise SplitError(
            f"{len(positive)} patients cannot be divided into {folds} folds; use fewer folds"
        )
    order = sorted(
        positive.index, key=lambda name: (unit_hash(ORDER_SEED, "fold", patient_id(name)), name)
    )
    labels = positive.loc[order].to_numpy()  # (P, F)
    fold = _deal(labels, folds)
    return pd.Series(fold, index=pd.Index(order, name="patient"), name="fold")


def _deal(labels: np.ndarray, folds: int) -> np.ndarray:
    """The fold of each patient (P,), from their findings (P, F), in the order given."""
    fold = np.full(len(labels), -1)
    with_finding = np.zeros((folds, labels.shape[1]), dtype=int)
    sizes = np.zeros(folds, dtype=int)
    while (fold < 0).any():
        left = (labels & (fold < 0)[:, None]).sum(axis=0)  # (F,) undealt patients of each finding
        rarest = int(np.where(left > 0, left, len(labels) + 1).argmin())
        dealt = fold < 0 if not left.any() else (fold < 0) & labels[:, rarest]
        for patient in np.flatnonzero(dealt):
            fewest = with_finding[:, rarest] if left.any() else sizes
            chosen = int(np.lexsort((sizes, fewest))[0])
            fold[patient] = chosen
            with_finding[chosen] += labels[patient]
            sizes[chosen] += 1
    return fold
