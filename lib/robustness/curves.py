"""In: a run's answers for its corrupted test films. Out: a run whose metrics are AUROC at every
strength and the area under every curve.

A curve is AUROC at the strengths 0 to 5 of one corruption. Its area is taken by the trapezoidal
rule over equally spaced steps and divided by their number,

    area = (a0 / 2 + a1 + a2 + a3 + a4 + a5 / 2) / 5,

so that it is an AUROC itself: 0.5 for a model that tells nothing, and never far above the AUROC on
clean films, a0. The area over all corruptions is the mean of theirs. What corruption costs is a0
less the area. All are weighted sums of AUROCs of the same patients, so that they are resampled,
averaged over folds and compared as any other score is.
"""

import contextlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from hashlib import blake2b
from typing import cast

import numpy as np
import pandas as pd

from lib.comparison.arms import RunPredictions
from lib.files import atomic_write
from lib.metrics.bootstrap import bootstrap_scores, mean_defined
from lib.metrics.scores import auroc
from lib.robustness.corruptions import CORRUPTIONS, STEPS, VARIANTS

RESAMPLES = 400
ALL = "all"
AREA, CLEAN, LOSS = "all: area", "clean", "all: loss"


def _metrics() -> tuple[pd.DataFrame, np.ndarray]:
    """What is measured, one row each, and its weights (M, V) of the AUROCs of VARIANTS."""
    places = {variant: i for i, variant in enumerate(VARIANTS)}
    one = np.eye(len(VARIANTS))
    steps = np.r_[0.5, np.ones(STEPS - 1), 0.5] / STEPS
    rows: list[tuple] = [(CLEAN, "none", "auroc", 0, np.nan, "")]
    weights = [one[0]]
    areas = []
    for name, kind in CORRUPTIONS.items():
        curve = [one[0], *(one[places[name, step]] for step in range(1, STEPS + 1))]
        for step, setting in enumerate(kind.settings, 1):
            rows.append((f"{name} {step}", name, "auroc", step, setting, kind.unit))
        areas.append(steps @ np.array(curve))
        rows += [(f"{name}: {what}", name, what, np.nan, np.nan, "") for what in ("area", "loss")]
        weights += [*curve[1:], areas[-1], one[0] - areas[-1]]
    mean = np.mean(areas, axis=0)
    rows += [(AREA, ALL, "area", np.nan, np.nan, ""), (LOSS, ALL, "loss", np.nan, np.nan, "")]
    columns = ["metric", "corruption", "measure", "strength", "setting", "unit"]
    return pd.DataFrame(rows, columns=columns), np.array([*weights, mean, one[0] - mean])


METRICS, WEIGHTS = _metrics()
AREAS = tuple(METRICS.loc[METRICS["measure"] == "area", "metric"])
LOSSES = tuple(METRICS.loc[METRICS["measure"] == "loss", "metric"])


@dataclass(frozen=True)
class RobustRun(RunPredictions):
    """A run with its `answers` (V, N, F) for VARIANTS of its test films; its metrics are those of
    METRICS."""

    answers: np.ndarray = field(default_factory=lambda: np.zeros((len(VARIANTS), 0, 0)))

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(METRICS["metric"])

    def on(self, findings: Sequence[str]) -> "RobustRun":
        """The same for some findings, and the images that are annotated for at least one."""
        columns = [self.findings.index(name) for name in findings]
        found = cast(RobustRun, super().on(findings))  # made by `replace`, of this class
        return found if found is self else replace(found, answers=found.answers[..., columns])

    def rows(self, kept: np.ndarray) -> "RobustRun":
        """The same for the images where kept (N,) is true."""
        found = cast(RobustRun, super().rows(kept))
        return replace(found, answers=self.answers[:, kept])

    @cached_property
    def points(self) -> dict[str, np.ndarray]:
        """metric -> (F + 1,): each finding, then macro."""
        scores = np.array(
            [
                [auroc(y, p) for y, p in zip(self.targets.T, probs.T, strict=True)]
                for probs in self.answers
            ]
        )  # (V, F)
        return self._with_macro(WEIGHTS @ scores)

    @cached_property
    def resampled(self) -> dict[str, np.ndarray]:
        """metric -> (RESAMPLES, F + 1)"""
        scores = self._kept_areas()  # (V, RESAMPLES, F)
        return self._with_macro(np.tensordot(WEIGHTS.astype(np.float32), scores, 1))

    def _with_macro(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """values (M, ..., F) -> metric -> (..., F + 1)"""
        macro = mean_defined(values[..., self.counted])
        whole = np.concatenate([values, macro[..., None]], axis=-1).astype(values.dtype)
        return dict(zip(METRICS["metric"], whole, strict=True))

    def _kept_areas(self) -> np.ndarray:
        """AUROC of each resample (V, RESAMPLES, F) float32, from the run's folder where it was computed
        of the same answers before."""
        digest = blake2b(f"{RESAMPLES} {self._digest()}".encode(), digest_size=12)
        digest.update(np.ascontiguousarray(self.answers).tobytes())
        path = self.folder and self.folder / "resamples" / f"robustness-{digest.hexdigest()}.npz"
        if path and path.exists():
            with (
                contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile),
                np.load(path) as kept,
            ):
                return kept["auroc"]
        drawn = {"n": RESAMPLES, "seed": self.fold}
        scores = np.array(
            [
                bootstrap_scores(self.targets, probs, self.patients, **drawn)["auroc"]
                for probs in self.answers
            ],
            dtype=np.float32,
        )
        if path:
            with contextlib.suppress(OSError), atomic_write(path) as partial:
                np.savez(partial, auroc=scores)
        return scores


def robust(run: RunPredictions, answers: np.ndarray) -> RobustRun:
    """A run with its answers (V, N, F) for VARIANTS of its test films, in its order of images."""
    about = {one.name: getattr(run, one.name) for one in fields(RunPredictions)}
    return RobustRun(**about | {"probs": answers[0], "scored": None}, answers=answers)
