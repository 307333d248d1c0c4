"""In: the answers of several trainings of one seed for the same test images. Out: one run, whose
scores are their means.

A stage that all folds share has one test set, which the later stages answer once per fold. Those
answers have the seed, the earlier stage and most training patients in common: they are no
independent trainings, and only seeds show what another training would do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lib.comparison.arms import RunPredictions
from lib.metrics.bootstrap import INTERVAL_METRICS
from lib.metrics.scores import mean_defined


@dataclass(frozen=True)
class RepeatedRun(RunPredictions):
    """The first of `trainings`, with the mean scores of all of them."""

    trainings: tuple[RunPredictions, ...] = ()

    def on(self, findings: Sequence[str]) -> RunPredictions:
        """The same for some findings, and the images that are annotated for at least one."""
        return repeated([run.on(findings) for run in self.trainings])

    def rows(self, kept: np.ndarray) -> RunPredictions:
        """The same for the images where kept (N,) is true."""
        return repeated([run.rows(kept) for run in self.trainings])

    @cached_property
    def points(self) -> dict[str, np.ndarray]:
        """metric -> (F + 1,): the means over trainings."""
        return {
            metric: mean_defined(np.array([run.points[metric] for run in self.trainings]), axis=0)
            for metric in INTERVAL_METRICS
        }

    @cached_property
    def resampled(self) -> dict[str, np.ndarray]:
        """metric -> (RESAMPLES, F + 1): the means over trainings in each resample."""
        return {
            metric: mean_defined(
                np.array([run.resampled[metric] for run in self.trainings]), axis=0
            )
            for metric in INTERVAL_METRICS
        }


def repeated(runs: Sequence[RunPredictions]) -> RunPredictions:
    """Runs of one seed on the same test images as one; a single one is itself."""
    return runs[0] if len(runs) == 1 else RepeatedRun(**vars_of(runs[0]), trainings=tuple(runs))


def vars_of(run: RunPredictions) -> dict:
    """The fields of a run, without what it has computed."""
    return {name: getattr(run, name) for name in RunPredictions.__dataclass_fields__}
