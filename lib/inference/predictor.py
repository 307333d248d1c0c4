"""Predict with an exported model, without torch.

In: an exported model and grey images. Out: its predictions. The imports are light, for the web app.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from lib.exceptions import ExportError
from lib.images.pixels import MAX_SIDE
from lib.inference.card import CARD_FORMAT
from lib.inference.ood import unlikeness
from lib.inference.session import CPU, CUDA, cuda_installed, open_session
from lib.system import available_cores

OUTPUTS = ("logits", "probs", "heatmaps", "embedding")
_REQUIRED = ("name", "findings", "image_size", "thresholds")
_STATISTICS = (
    "mean",
    "projection",
    "scale",
    "rest",
    "threshold",
)  # the keys that `unlikeness` and `unfamiliar` read


@dataclass(frozen=True)
class Answer:
    """The model's predictions for B images, with findings in the card's order.

    - logits: (B, F), raw.
    - probs: (B, F), calibrated, in [0, 1].
    - heatmaps: (B, F, h, w) >= 0, not normalised.
    - embedding: (B, D).
    - unlikeness: (B,) how unlike the training images each one is; NaN if the card has no
      statistics.
    """

    logits: np.ndarray
    probs: np.ndarray
    heatmaps: np.ndarray
    embedding: np.ndarray
    unlikeness: np.ndarray


class Predictor:
    """A model of `savefolder/`, loaded once; several threads may call `predict` at a time.

    `card` is what the export wrote into the file; `thresholds` (F,) apply to `probs`. `threads` is
    how many cores one prediction may use, all by default. `device` is cpu, cuda, or auto: cuda
    where onnxruntime has it, a device is there, and the model is fp32. `self.device` says which one
    it is. Raises ExportError for a file that is not such a model, and for cuda where it cannot be
    had.
    """

    def __init__(self, model: Path | str, threads: int | None = None, device: str = CPU):
        self.path = Path(model)
        self.device, threads = CPU, threads or available_cores()
        self.session = open_session(self.path, threads)
        self.card = _read_card(self.session, self.path)
        if device == CUDA or (device == "auto" and cuda_installed()):
            self._move_to_cuda(threads, optional=device == "auto")
        self.name: str = self.card["name"]
        self.findings: tuple[str, ...] = tuple(self.card["findings"])
        self.image_size: int = self.card["image_size"]
        self.thresholds = np.asarray(self.card["thresholds"], dtype=np.float32)  # (F,)

    def _move_to_cuda(self, threads: int, optional: bool) -> None:
        """Open the model on CUDA; if `optional`, stay on the CPU where that cannot be.

        int8 stays on the CPU: onnxruntime has no integer convolutions for CUDA, and the file's
        agreement with fp32 was measured with those of the CPU.
        """
        try:
            if self.card.get("precision") == "int8":
                raise ExportError(
                    f"{self.path} is int8, which is computed on the CPU alone: "
                    "use the fp32 model, or --device cpu"
                )
            self.session, self.device = open_session(self.path, threads, CUDA), CUDA
        except ExportError:
            if not optional:
                raise

    def predict(self, images: np.ndarray) -> Answer:
        """Predict for grey images (B, S, S) uint8 with B >= 1.

        They are resized to squares as `lib.images.read.read_radiograph` does. Raises ValueError for
        another shape or type, and ExportError for probabilities that are not finite.
        """
        size = self.image_size
        if (
            images.dtype != np.uint8
            or images.ndim != 3
            or images.shape[1:] != (size, size)
            or not len(images)
        ):
            raise ValueError(
                f"images are {images.dtype} {images.shape}; {self.name} takes uint8 (B, {size}, {size}) with B >= 1"
            )
        try:
            outputs = self.session.run(OUTPUTS, {"images": images})
        except Exception as error:  # onnxruntime's own types have no common base
            raise ExportError(
                f"{self.path} cannot be computed; export it again ({error})"
            ) from error
        if not np.isfinite(outputs[1]).all():
            raise ExportError(
                f"{self.path} predicts probabilities that are not finite; export the run again"
            )
        statistics, embedding = self.card.get("familiarity"), outputs[3]
        score = (
            unlikeness(embedding, statistics) if statistics else np.full(len(images), np.nan)
        )  # (B,)
        logits, probs, heatmaps, embedding = outputs
        return Answer(logits, probs, heatmaps, embedding, np.asarray(score, dtype=np.float64))

    def unfamiliar(self, score: np.ndarray) -> np.ndarray:
        """Return (B,) which images are unlike the training images.

        Their score is over the card's threshold. NaN, the score without statistics, is not over it.
        """
        statistics = self.card.get("familiarity")
        return np.asarray(score) > (statistics["threshold"] if statistics else np.inf)

    def flagged(self, probs: np.ndarray) -> np.ndarray:
        """Return (B, F) which findings are at or over their thresholds."""
        return probs >= self.thresholds

    def warm_up(self) -> None:
        """Predict for a black image, since the first prediction takes longer."""
        self.predict(np.zeros((1, self.image_size, self.image_size), np.uint8))


def _read_card(session: onnxruntime.InferenceSession, path: Path) -> dict[str, Any]:
    try:
        text = session.get_modelmeta().custom_metadata_map.get("card")
    except UnicodeDecodeError as error:
        raise ExportError(
            f"{path} has a broken card: it is not text in UTF-8 ({error}); export it again"
        ) from error
    outputs = {output.name: output.shape for output in session.get_outputs()}
    if text is None or not outputs.keys() >= set(OUTPUTS):
        raise ExportError(
            f"{path} was not written by `cxr export`: it has no card, or lacks some of the outputs {OUTPUTS}"
        )
    card = parse_card(text, path)
    if card.get("format") != CARD_FORMAT:
        raise ExportError(
            f"{path} has a card of format {card.get('format')!r}, but this version reads format {CARD_FORMAT}"
        )
    inputs = {given.name: given.shape for given in session.get_inputs()}
    shape = [*inputs.get("images", [])[1:], *outputs["logits"][1:]]  # S, S, F
    if wrong := _card_problem(card, shape) or _statistics_problem(card, outputs["embedding"]):
        raise ExportError(f"{path} has a broken card: {wrong}; export it again")
    return card


def parse_card(text: str, path: Path) -> dict[str, Any]:
    """Return the card in `text`, which was read from the file `path`.

    Raises ExportError unless it is a JSON object.
    """
    try:
        card = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ExportError(
            f"{path} has a broken card: it is not valid JSON ({error}); export it again"
        ) from error
    if not isinstance(card, dict):
        raise ExportError(
            f"{path} has a broken card: it is a JSON {type(card).__name__}, not an object; export it again"
        )
    return card


def _card_problem(card: dict[str, Any], shape: list[Any]) -> str:
    """Return what is wrong with a card, or an empty string.

    `shape` is S, S, F of the graph: the size of its images and the number of its findings.
    """
    missing = [key for key in _REQUIRED if key not in card]
    if missing:
        return f"{', '.join(missing)} is missing"
    name, findings, size, thresholds = (card[key] for key in _REQUIRED)
    listed = isinstance(findings, list) and all(isinstance(finding, str) for finding in findings)
    if not isinstance(name, str) or not listed:
        return "name must be a string, and findings a list of strings"
    if type(size) is not int or not 1 <= size <= MAX_SIDE:
        return f"image_size is {size!r}, but must be a whole number from 1 to {MAX_SIDE}"
    if shape != [size, size, len(findings)]:
        return f"image_size and {len(findings)} findings do not match the graph, whose shape is {shape}"
    if not isinstance(thresholds, list) or len(thresholds) != len(findings):
        return f"thresholds must be a list of {len(findings)} numbers"
    if not all(
        type(cut) in (int, float) and 0 <= cut <= 1 for cut in thresholds
    ):  # NaN compares false
        return f"thresholds are {thresholds!r}, but must be numbers from 0 to 1"
    return ""


def _statistics_problem(card: dict[str, Any], embedding: list[Any]) -> str:
    """Return what is wrong with a card's `familiarity`, or an empty string.

    `embedding` is the shape (B, D) of the graph's output.
    """
    statistics = card.get("familiarity")
    if statistics is None:
        return ""
    if not (isinstance(statistics, dict) and statistics.keys() >= set(_STATISTICS)):
        return f"familiarity must be null, or an object with {', '.join(_STATISTICS)}"
    try:
        score = unlikeness(np.zeros((1, *embedding[1:]), np.float32), statistics)
        score > statistics["threshold"]  # noqa: B015 - that it can be compared
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        return f"familiarity cannot be used: {error}"
    return ""
