"""Quantize models to int8, and judge them on images that did not choose the recipe; what exported
files cost, and how far a smaller network answers as another."""

from lib.compression.agreement import (
    agreement_table,
)
from lib.compression.compare import (
    compare_exports,
)
from lib.compression.costs import (
    export_costs,
    pareto,
)

__all__ = ["agreement_table", "compare_exports", "export_costs", "pareto"]
