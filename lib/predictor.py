"""In: an exported model and grey films. Out: their answers, without torch; a light import, for the web app's sake."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from lib.exceptions import ExportError
from lib.familiarity import unlikeness
from lib.system import available_cores

CARD_FORMAT = 1
OUTPUTS = ("logits", "probs", "heatmaps", "embedding")
_REQUIRED = ("name", "findings", "image_size", "thresholds")


@dataclass(frozen=True)
class Answer:
    """What the model says of B films, findings in the card's order.

    `logits` (B, F) raw; `probs` (B, F) calibrated, in 0..1; `heatmaps` (B, F, h, w) >= 0, not normalised; `embedding`
    (B, D); `unlikeness` (B,) how unlike the training films each one is, NaN where the card has no statistics.
    """

    logits: np.ndarray
    probs: np.ndarray
    heatmaps: np.ndarray
    embedding: np.ndarray
    unlikeness: np.ndarray


class Predictor:
    """A model of `savefolder/`, loaded once; `predict` may be called from several threads.

    `card` is what the export wrote into the file, `thresholds` (F,) are on `probs`. `threads` is how many cores one
    answer may use, by default all. Raises ExportError for a file that is no such model.
    """

    def __init__(self, model: Path | str, threads: int | None = None):
        self.path = Path(model)
        self.session = open_session(self.path, threads or available_cores())
        self.card = _read_card(self.session, self.path)
        self.name: str = self.card["name"]
        self.findings: tuple[str, ...] = tuple(self.card["findings"])
        self.image_size: int = self.card["image_size"]
        self.thresholds = np.asarray(self.card["thresholds"], dtype=np.float32)  # (F,)

    def predict(self, images: np.ndarray) -> Answer:
        """Answers grey films (B, S, S) uint8, squashed as `lib.imaging.read_film` does; B >= 1."""
        size = self.image_size
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (size, size) or not len(images):
            raise ValueError(
                f"images are {images.dtype} {images.shape}; {self.name} takes uint8 (B, {size}, {size}) with B >= 1"
            )
        outputs = self.session.run(OUTPUTS, {"images": images})
        if not np.isfinite(outputs[1]).all():
            raise ExportError(f"{self.path} answers with numbers that are not finite; export the run again")
        statistics, embedding = self.card.get("familiarity"), outputs[3]
        score = unlikeness(embedding, statistics) if statistics else np.full(len(images), np.nan)  # (B,)
        return Answer(*outputs, unlikeness=np.asarray(score, dtype=np.float64))

    def unfamiliar(self, score: np.ndarray) -> np.ndarray:
        """(B,) which films look unlike the training films: those over the card's threshold. NaN is not."""
        statistics = self.card.get("familiarity")
        return np.asarray(score) > (statistics["threshold"] if statistics else np.inf)

    def flagged(self, probs: np.ndarray) -> np.ndarray:
        """(B, F) which findings are at or over their thresholds."""
        return probs >= self.thresholds

    def warm_up(self) -> None:
        """Answers a black film, since the first answer takes longer."""
        self.predict(np.zeros((1, self.image_size, self.image_size), np.uint8))


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU as every answer is served: no memory is kept between answers, no thread spins in wait.

    Raises ExportError for a file that is missing or no ONNX model.
    """
    if not path.is_file():
        raise ExportError(f"{path} is no file; export a trained run with `cxr export RUN`, or name another model")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # an arena keeps the memory of the largest batch
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads would take whole cores
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types have no common base
        raise ExportError(f"{path} cannot be loaded as an ONNX model; export it again ({error})") from error


def _read_card(session: onnxruntime.InferenceSession, path: Path) -> dict[str, Any]:
    text = session.get_modelmeta().custom_metadata_map.get("card")
    outputs = {output.name: output.shape for output in session.get_outputs()}
    if text is None or not outputs.keys() >= set(OUTPUTS):
        raise ExportError(f"{path} was not written by `cxr export`: it has no card, or not the outputs {OUTPUTS}")
    card = json.loads(text)
    if card.get("format") != CARD_FORMAT:
        raise ExportError(f"{path} has a card of format {card.get('format')!r}, and this version reads {CARD_FORMAT}")
    missing = [key for key in _REQUIRED if key not in card]
    count = len(card.get("findings", ()))
    if missing or outputs["logits"][1] != count or len(card["thresholds"]) != count:
        raise ExportError(
            f"{path} has a broken card (missing: {missing or 'nothing'}; {count} findings); export it again"
        )
    return card
