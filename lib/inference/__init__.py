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
    Answer,
    Predictor,
)
from lib.inference.session import (
    run_file,
)
from lib.inference.shards import (
    Shard,
)
from lib.inference.stored_card import (
    stored_card,
)
from lib.inference.teaching import (
    TEACHERS,
    part_in,
    taught_by,
)

__all__ = [
    "NOTICE",
    "TEACHERS",
    "Answer",
    "Predictor",
    "Shard",
    "card_text",
    "merge_shards",
    "part_in",
    "predict_command",
    "predict_files",
    "run_file",
    "stored_card",
    "taught_by",
]
