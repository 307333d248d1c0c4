"""A model and another labelled set -> how well it does there, what it loses, what local films would
give."""

from lib.external.evaluate import (
    evaluate_model,
)
from lib.external.local import (
    parse_counts,
)
from lib.external.scores import (
    METRICS as LABELS,
)
from lib.external.store import (
    external_table,
    find_evaluations,
    read_evaluation,
)
from lib.external.words import (
    overview_text,
    terminal_text,
)

__all__ = [
    "LABELS",
    "evaluate_model",
    "external_table",
    "find_evaluations",
    "overview_text",
    "parse_counts",
    "read_evaluation",
    "terminal_text",
]
