"""Export a run to one ONNX file with preprocessing, calibration, heat maps and its card."""

from lib.export.run import (
    export_run,
)

__all__ = ["export_run"]
