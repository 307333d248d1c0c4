"""In: a run's predictions for validation and test. Out: an `Evaluation`: thresholds, metrics,
intervals, calibration.

Everything that is chosen is chosen on validation; the test images are only scored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.files import write_table
from lib.metrics.bootstrap import bootstrap_interval
from lib.metrics.calibration import Calibration, calibration_table, fit_calibration
from lib.metrics.predictions import Predictions, write_submission
from lib.metrics.scores import evaluate, prevalence
from lib.metrics.thresholds import apply_thresholds, choose_thresholds

HEADLINE = [
    "auroc",
    "auroc_low",
    "auroc_high",
    "average_precision",
    "f1",
    "accuracy",
    "accuracy_all_negative",
]
POINTS = [
    "threshold",
    "source",
    "val_positives",
    "sensitivity",
    "sensitivity_low",
    "sensitivity_high",
]
POINTS += ["specificity", "specificity_low", "specificity_high", "precision", "f1", "positives"]
THRESHOLDED = (
    *("f1_at_half", "threshold", "f1", "f1_low", "f1_high"),
    *("sensitivity", "specificity", "accuracy"),
)


@dataclass(frozen=True)
class Evaluation:
    """What one run's test predictions are worth.

    metrics: one row per finding, macro last, at the thresholds of best validation F1, with 95 %
    intervals over patients. operating_points: one row per finding and rule. thresholds: (F,).
    calibration: one map per finding. submit: predictions for the images of an unlabelled test.csv.
    """

    test: Predictions
    metrics: pd.DataFrame
    operating_points: pd.DataFrame
    thresholds: np.ndarray
    calibration: Calibration
    submit: Predictions | None = None

    @cached_property
    def calibrated(self) -> np.ndarray:
        """The calibrated test probabilities, (N, F)."""
        return self.calibration.apply(self.test.probs)

    @cached_property
    def calibration_scores(self) -> pd.DataFrame:
        """Calibration before and after, one row per finding, then the mean."""
        return calibration_table(
            self.test.targets, self.test.probs, self.calibrated, self.test.findings
        )

    def headline(self) -> pd.DataFrame:
        """The metrics to look at first, rounded; accuracy beside that of answering "no" every
        time."""
        return self.metrics.set_index("finding")[[*HEADLINE, "positives"]].round(3)

    def points(self) -> pd.DataFrame:
        """The operating points, rounded."""
        return self.operating_points.set_index(["finding", "rule"])[POINTS].round(3)

    def calibration_summary(self) -> pd.DataFrame:
        """The calibration scores with the method of each finding, rounded."""
        return (
            self.calibration_scores.assign(method=[*self.calibration.method, ""])
            .set_index("finding")
            .round(4)
        )

    def card(self) -> dict[str, Any]:
        """What a model's card needs to answer: thresholds, operating points, calibration."""
        return {
            "thresholds": self.thresholds,
            "operating_points": self.operating_points.to_dict("records"),
            "calibration": self.calibration.as_card(),
        }

    def write(self, folder: Path) -> None:
        """Writes operating_points.csv, calibration.csv, and submission.csv for an unlabelled
        test.csv."""
        write_table(folder / "operating_points.csv", self.operating_points)
        write_table(folder / "calibration.csv", self.calibration_scores)
        if self.submit:
            write_submission(folder / "submission.csv", self.submit, self.thresholds)


def score_predictions(predictions: Predictions, *, ranks_only: bool = False) -> pd.DataFrame:
    """The metrics of predictions alone, as `evaluate` and `bootstrap_interval` give them, at a
    threshold of 0.5.

    With ranks_only the values rank images and are no probabilities: what needs a threshold is NaN.
    """
    one = predictions
    table = evaluate(one.targets, one.probs, one.findings, patients=one.patients)
    table = table.merge(bootstrap_interval(one.targets, one.probs, one.patients, one.findings))
    if ranks_only:
        table[[name for name in THRESHOLDED if name in table]] = np.nan
    return table


def evaluate_run(predictions: Mapping[str, Predictions], train_targets: np.ndarray) -> Evaluation:
    """Thresholds and calibration from predictions["val"], then metrics with intervals for
    predictions["test"].

    train_targets: (M, F), whose prevalence gives the fallback threshold of findings with too few
    validation positives.
    """
    val, test = predictions["val"], predictions["test"]
    chosen = choose_thresholds(val.targets, val.probs, val.findings, prevalence(train_targets))
    best_f1 = chosen[chosen["rule"] == "f1"]
    thresholds = best_f1["threshold"].to_numpy()
    sources = list(best_f1["source"])
    metrics = evaluate(test.targets, test.probs, test.findings, thresholds, sources, test.patients)
    intervals = bootstrap_interval(
        test.targets, test.probs, test.patients, test.findings, thresholds
    )
    return Evaluation(
        test=test,
        metrics=metrics.merge(intervals),
        operating_points=apply_thresholds(chosen, test.targets, test.probs, test.patients),
        thresholds=thresholds,
        calibration=fit_calibration(val.targets, val.probs, val.patients, val.findings),
        submit=predictions.get("submit"),
    )
