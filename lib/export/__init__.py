"""Export a run, or one of every arm, to an ONNX file with preprocessing, calibration, heat maps and its
card; quantize a run as a run of its own."""

from lib.export.arms import (
    export_arms,
)
from lib.export.quantized import (
    quantize_run,
    quantized_config,
    quantized_cost,
    quantized_history,
    save_quantized,
)
from lib.export.run import (
    export_run,
)

__all__ = [
    "export_arms",
    "export_run",
    "quantize_run",
    "quantized_config",
    "quantized_cost",
    "quantized_history",
    "save_quantized",
]
