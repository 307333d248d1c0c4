"""In: the runs of an arm in 8 bits, and those that it was made from. Out: their differences, one run
for each seed.

A run in 8 bits is not trained: what it differs by from the run that it was made from is due to the
8 bits alone, whatever the training of both. So these runs are compared seed by seed, and the spread
over trainings that they share does not count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lib.comparison.arms import Scored


@dataclass(frozen=True)
class RunDifference:
    """The scores of `run` less those of `other`, the run it was made from, on the same test images.

    What else is asked of a scored run is that of `run`.
    """

    run: "Scored"
    other: "Scored"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.run, name)

    @cached_property
    def points(self) -> dict[str, np.ndarray]:
        """metric -> (F + 1,): each finding, then macro."""
        ours, theirs = self.run.points, self.other.points
        return {metric: ours[metric] - theirs[metric] for metric in ours}

    @cached_property
    def resampled(self) -> dict[str, np.ndarray]:
        """metric -> (RESAMPLES, F + 1)"""
        ours, theirs = self.run.resampled, self.other.resampled
        return {metric: ours[metric] - theirs[metric] for metric in ours}


def paired(runs: Sequence["Scored"], reference: Sequence["Scored"]) -> list[RunDifference]:
    """The differences of runs from those that they were made from, all of them among `reference`;
    empty where any was made otherwise, or from another run."""
    others = {tuple(part.run for part in other.parts): other for other in reference}
    sources = [tuple(part.made_from for part in run.parts) for run in runs]
    if not all(source in others for source in sources):
        return []
    return [RunDifference(run, others[source]) for run, source in zip(runs, sources, strict=True)]
