"""In: what a run answered for corrupted films. Out: `robustness.parquet` in its folder, and back.

The file has a row per variant and image. Its metadata hold a key that changes with the model, its
test films and labels, and the corruptions: what was answered by another model counts as missing.
"""

from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd
import PIL
import pyarrow as pa
import pyarrow.parquet as pq

from lib.exceptions import RunError
from lib.files import atomic_write, model_files, sha256
from lib.metrics.predictions import Predictions
from lib.robustness.corruptions import CORRUPTION_VERSION, VARIANTS

NAME = "robustness.parquet"
KEY = b"cxr_robustness"


def answers_key(folder: Path) -> str:
    """What the answers of the complete run in `folder` depend on, as hex digits. Pillow makes the
    JPEGs, so its version is part of it."""
    parts = [f"{CORRUPTION_VERSION} {PIL.__version__} {VARIANTS}"]
    parts += [sha256(path) for path in (*model_files(folder), folder / "predictions.parquet")]
    return blake2b("\n".join(parts).encode(), digest_size=12).hexdigest()


def is_answered(folder: Path) -> bool:
    """Whether the run's answers are there, whole, and of its present model and films."""
    try:
        metadata = pq.read_schema(folder / NAME).metadata or {}
    except (OSError, pa.ArrowException):
        return False
    return metadata.get(KEY, b"").decode() == answers_key(folder)


def write_answers(folder: Path, run: Predictions, answers: np.ndarray) -> None:
    """Writes answers (V, N, F) for VARIANTS of the films of `run`, whole or not at all."""
    names, strengths = zip(*VARIANTS, strict=True)
    count = len(run.images)
    frame = pd.DataFrame(
        {
            "corruption": pd.Categorical(np.repeat(names, count)),
            "strength": np.repeat(np.array(strengths, np.int8), count),
            "image": pd.Categorical(np.tile(run.images, len(VARIANTS))),
        }
    )
    probs = answers.reshape(-1, len(run.findings)).astype(np.float32)
    columns = [f"prob_{name}" for name in run.findings]
    table = pa.Table.from_pandas(frame.assign(**dict(zip(columns, probs.T, strict=True))))
    marked = {**(table.schema.metadata or {}), KEY: answers_key(folder).encode()}
    with atomic_write(folder / NAME) as partial:
        pq.write_table(table.replace_schema_metadata(marked), partial, compression="zstd")


def read_answers(folder: Path, run: Predictions) -> np.ndarray | None:
    """The answers (V, N, F) float32 for VARIANTS of the films of `run`, in its order; None where
    they are missing or another model's. Raises RunError where they are not of these films."""
    if not is_answered(folder):
        return None
    frame = pd.read_parquet(folder / NAME)
    shape = (len(VARIANTS), len(run.images), len(run.findings))
    expected = np.tile(run.images, len(VARIANTS))
    if len(frame) != len(expected) or (frame["image"].to_numpy(str) != expected).any():
        raise RunError(
            f"{folder / NAME} has not the test films of its run: delete it and let "
            "`cxr robustness` make it again"
        )
    return frame[[f"prob_{name}" for name in run.findings]].to_numpy(np.float32).reshape(shape)
