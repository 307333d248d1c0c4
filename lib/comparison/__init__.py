"""Runs -> arms, differences with intervals, verdicts in words."""

from lib.comparison.arms import (
    RunPredictions,
    arm_scores,
    differences,
    read_run_predictions,
)
from lib.comparison.ensembles import (
    ensemble,
)
from lib.comparison.external import (
    External,
    on_labels,
    on_test_images,
)
from lib.comparison.fairness import (
    fairness_sentences,
    fairness_table,
)
from lib.comparison.folds import (
    FoldedRun,
    fold_seeds,
)
from lib.comparison.gains import (
    gain_sentences,
    stage_gains,
)
from lib.comparison.named import (
    compare_folders,
)
from lib.comparison.power import (
    power_table,
)
from lib.comparison.prediction_table import (
    PredictionTable,
    is_prediction_table,
    read_prediction_table,
)
from lib.comparison.quantized import (
    quantized_changes,
    quantized_sentences,
)
from lib.comparison.subgroups import (
    subgroup_table,
)
from lib.comparison.verdicts import (
    Comparison,
    compare_study,
    seed_scores,
)
from lib.comparison.words import (
    NAMES,
    equivalence_text,
    power_text,
    scores_text,
    summary,
    verdict_text,
)

__all__ = [
    "NAMES",
    "Comparison",
    "External",
    "FoldedRun",
    "PredictionTable",
    "RunPredictions",
    "arm_scores",
    "compare_folders",
    "compare_study",
    "differences",
    "ensemble",
    "equivalence_text",
    "fairness_sentences",
    "fairness_table",
    "fold_seeds",
    "gain_sentences",
    "is_prediction_table",
    "on_labels",
    "on_test_images",
    "power_table",
    "power_text",
    "quantized_changes",
    "quantized_sentences",
    "read_prediction_table",
    "read_run_predictions",
    "scores_text",
    "seed_scores",
    "stage_gains",
    "subgroup_table",
    "summary",
    "verdict_text",
]
