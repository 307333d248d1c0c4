"""Predict with exported ONNX files; needs neither torch nor pandas."""

from lib.inference.batch import (
    predict_command,
    predict_files,
)
from lib.inference.card import (
    NOTICE,
    card_text,
)
from lib.inference.predictor import (
    Predictor,
)
from lib.inference.session import (
    run_file,
)

__all__ = ["NOTICE", "Predictor", "card_text", "predict_command", "predict_files", "run_file"]
