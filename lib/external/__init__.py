"""A model and another labelled set -> how well it does there, what it loses, what local films would
give."""

from lib.external.evaluate import (
    evaluate_model,
)
from lib.external.local import (
    parse_counts,
)
from lib.external.store import (
    external_table,
    find_evaluations,
    read_evaluation,
)
from lib.external.words import (
    terminal_text,
)

__all__ = [
    "evaluate_model",
    "external_table",
    "find_evaluations",
    "parse_counts",
    "read_evaluation",
    "terminal_text",
]
