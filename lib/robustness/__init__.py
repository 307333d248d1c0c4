"""Runs -> AUROC under corrupted films, arms side by side; torch only while films are answered."""

from lib.robustness.compare import (
    Robustness,
    compare_robustness,
)
from lib.robustness.corruptions import (
    CORRUPTIONS,
    corrupt,
)
from lib.robustness.example import (
    example_films,
)
from lib.robustness.study import (
    answer_study,
)
from lib.robustness.words import (
    robustness_sentences,
    robustness_text,
)

__all__ = [
    "CORRUPTIONS",
    "Robustness",
    "answer_study",
    "compare_robustness",
    "corrupt",
    "example_films",
    "robustness_sentences",
    "robustness_text",
]
