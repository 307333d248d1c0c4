"""The stages of an arm -> what each model can do on each stage's patients, and how far its layers
moved; freeze sweeps and learning curves."""

from lib.stages.drift import (
    Drift,
    stage_drift,
)
from lib.stages.matrix import (
    StageMatrix,
    stage_matrix,
)
from lib.stages.sweeps import (
    curve_sentences,
    freeze_sweep,
    learning_curves,
)

__all__ = [
    "Drift",
    "StageMatrix",
    "curve_sentences",
    "freeze_sweep",
    "learning_curves",
    "stage_drift",
    "stage_matrix",
]
