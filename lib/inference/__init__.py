"""Predict with exported ONNX files; needs neither torch nor pandas."""

from lib.inference.batch import (
    predict_files,
)
from lib.inference.card import (
    NOTICE,
    card_text,
)
from lib.inference.command import (
    predict_command,
)
from lib.inference.merge import (
    merge_shards,
)
from lib.inference.predictor import (
    Predictor,
)
from lib.inference.session import (
    run_file,
)
from lib.inference.shards import (
    Shard,
)

__all__ = [
    "NOTICE",
    "Predictor",
    "Shard",
    "card_text",
    "merge_shards",
    "predict_command",
    "predict_files",
    "run_file",
]
