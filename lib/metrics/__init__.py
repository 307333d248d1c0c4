"""Targets and probabilities -> scores, intervals, thresholds, calibration; NumPy, pandas, scipy,
scikit-learn."""

from lib.metrics.bootstrap import (
    bootstrap_interval,
)
from lib.metrics.calibration import (
    Calibration,
    calibration_table,
    fit_calibration,
)
from lib.metrics.error_analysis import (
    BOX_PIXELS,
    box_scores,
    confident_errors,
    error_overlap,
    label_noise_candidates,
    pointing_table,
)
from lib.metrics.evaluation import (
    Evaluation,
    evaluate_run,
    score_predictions,
)
from lib.metrics.predictions import (
    Predictions,
    read_predictions,
    write_predictions,
)
from lib.metrics.scores import (
    MACRO,
    auroc,
    average_precision,
    counted_findings,
    evaluate,
    f1,
    prevalence,
    random_average_precision,
)
from lib.metrics.similarity import (
    linear_cka,
)
from lib.metrics.thresholds import (
    apply_thresholds,
    choose_thresholds,
)

__all__ = [
    "BOX_PIXELS",
    "MACRO",
    "Calibration",
    "Evaluation",
    "Predictions",
    "apply_thresholds",
    "auroc",
    "average_precision",
    "bootstrap_interval",
    "box_scores",
    "calibration_table",
    "choose_thresholds",
    "confident_errors",
    "counted_findings",
    "error_overlap",
    "evaluate",
    "evaluate_run",
    "f1",
    "fit_calibration",
    "label_noise_candidates",
    "linear_cka",
    "pointing_table",
    "prevalence",
    "random_average_precision",
    "read_predictions",
    "score_predictions",
    "write_predictions",
]
