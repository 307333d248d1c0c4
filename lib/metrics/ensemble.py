"""In: the answers of several runs for the same images, with their calibrations. Out: what their
ensemble answers.

An ensemble answers with the mean of its members' calibrated probabilities (a linear opinion pool;
Lakshminarayanan et al. 2017 for networks that differ by their seed). Calibration comes first, so
that a member whose probabilities are far too high or low does not rule the mean.
"""

from collections.abc import Sequence

import numpy as np

from lib.metrics.calibration import Calibration
from lib.metrics.scores import HALF


def ensemble_probs(probs: Sequence[np.ndarray], maps: Sequence[Calibration]) -> np.ndarray:
    """The mean of the members' calibrated probabilities: (N, F), as float64.

    probs: (N, F) of each member; maps: their calibrations. Raises ValueError on what is no
    probability, and where there are not as many maps.
    """
    return np.mean([one.apply(p) for one, p in zip(maps, probs, strict=True)], axis=0)


def ensemble_thresholds(cuts: Sequence[np.ndarray], maps: Sequence[Calibration]) -> np.ndarray:
    """The mean of the members' calibrated thresholds: (F,); 0.5 stands for those that are NaN.

    cuts: (F,) of each member, for its raw probabilities. A calibration map keeps the order, so that
    a member's calibrated threshold calls positive what its threshold does.
    """
    mapped = [
        np.where(np.isnan(cut), HALF, one.apply(np.where(np.isnan(cut), HALF, cut)))
        for one, cut in zip(maps, cuts, strict=True)
    ]
    return np.mean(mapped, axis=0)
