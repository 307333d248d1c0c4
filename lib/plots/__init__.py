"""Frames and arrays -> matplotlib figures; one made from phantoms says so on it."""

from lib.plots.ablation import (
    ablation,
)
from lib.plots.comparison import (
    cost_quality,
    error_overlap,
    finding_differences,
    findings_by_runs,
    heat_grid,
    pointing_scores,
    subgroup_scores,
)
from lib.plots.curves import (
    accuracy_vs_all_negative,
    precision_recall_curves,
    reliability_diagrams,
    roc_curves,
    training_curves,
)
from lib.plots.data import (
    cooccurrence,
    image_grid,
    label_counts,
)
from lib.plots.examination import (
    examination,
)
from lib.plots.external import (
    external_scores,
)
from lib.plots.fairness import (
    group_rates,
)
from lib.plots.pareto import (
    COSTS,
    quality_against_cost,
)
from lib.plots.robustness import (
    corruption_grid,
    robustness_curves,
)
from lib.plots.stages import (
    learning_curves,
    stage_drift,
    stage_matrix,
)
from lib.plots.style import (
    backbone_colour,
)

__all__ = [
    "COSTS",
    "ablation",
    "accuracy_vs_all_negative",
    "backbone_colour",
    "cooccurrence",
    "corruption_grid",
    "cost_quality",
    "error_overlap",
    "examination",
    "external_scores",
    "finding_differences",
    "findings_by_runs",
    "group_rates",
    "heat_grid",
    "image_grid",
    "label_counts",
    "learning_curves",
    "pointing_scores",
    "precision_recall_curves",
    "quality_against_cost",
    "reliability_diagrams",
    "robustness_curves",
    "roc_curves",
    "stage_drift",
    "stage_matrix",
    "subgroup_scores",
    "training_curves",
]
