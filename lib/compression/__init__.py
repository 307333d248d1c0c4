"""Quantize models to int8, and judge them on images that did not choose the recipe; what exported
files cost, and how far a smaller network answers as another."""

from lib.compression.agreement import (
    agreement_table,
    files_agreement,
)
from lib.compression.compare import (
    compare_exports,
)
from lib.compression.costs import (
    export_costs,
    pareto,
)
from lib.compression.detection import (
    detection_table,
)

__all__ = [
    "agreement_table",
    "compare_exports",
    "detection_table",
    "export_costs",
    "files_agreement",
    "pareto",
]
