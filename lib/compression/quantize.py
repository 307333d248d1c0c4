"""Quantize an exported model to int8.

In: an exported model and images of its run. Out: int8 versions of it, each with its drift from
fp32.

Quantization is static (Jacob et al. 2018; Krishnamoorthi 2018) in QDQ format, with one scale per
output channel for weights and one per tensor for activations. Weights use 7 bits. Processors
without VNNI add pairs of products in 16 bits; with 7 bits they do not overflow, and give the same
results. Only what leads to the embedding is quantized. Head, probabilities and the arithmetic of
the heat maps stay in floating point. So does squeeze-excitation, whose tensors of one pixel gain
nothing.
"""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from lib.compression.graph import light_nodes, weighted_nodes
from lib.exceptions import ExportError
from lib.inference.session import run_file
from lib.metrics.scores import HALF, auroc, mean_defined

LIMIT = 0.005
"""The largest change of validation macro AUROC, up or down: a gain by rounding is chance, and a
sign of changed predictions. The AUROC differs by more between seeds, so a smaller change does not
matter."""

PROB_LIMIT = 0.02
"""The largest mean absolute difference of calibrated probabilities: below this, most percentages
that a reader sees change by at most two points."""

FLAG_LIMIT = 0.02
"""The largest share of (image, finding) pairs whose flag changes: one in fifty, about what a second
reading changes."""

MIN_POSITIVES = 20
"""The fewest positive labels in each half of the validation images, over all findings with both
classes. With 20 positives and 20 negatives, one pair that changes its order is 0.0025 of AUROC,
half of LIMIT. With fewer, LIMIT means nothing."""

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
_TYPES = ["Conv", "Gemm", "MatMul", "Sigmoid", "Mul", "Add"]
_STRIDE = 4  # images whose activations are in memory at a time
Recipe = tuple[str, str, list[str]]
"""Calibration method, what is int8 in words, and the names of the int8 nodes."""

_PARTS = 8  # of the network, quantized one by one to find the most sensitive ones


@dataclass(frozen=True)
class ValidationSet:
    """Validation data that int8 is compared on.

    - images: (N, S, S) uint8.
    - targets: (N, F), NaN where not annotated.
    - answers: the outputs of fp32.
    - thresholds: (F,), on calibrated probabilities.
    """

    images: np.ndarray
    targets: np.ndarray
    answers: dict[str, np.ndarray]
    thresholds: np.ndarray

    def part(self, mask: np.ndarray) -> "ValidationSet":
        """Return the images where mask (N,) is true."""
        answers = {name: values[mask] for name, values in self.answers.items()}
        return ValidationSet(self.images[mask], self.targets[mask], answers, self.thresholds)

    @property
    def positives(self) -> int:
        """Count positive labels of findings with both classes: those that AUROC is based on."""
        positive, negative = (self.targets >= HALF).sum(axis=0), (self.targets < HALF).sum(axis=0)
        return int(positive[negative > 0].sum())

    @cached_property
    def auroc(self) -> float:
        return macro_auroc(self.targets, self.answers["logits"])


@dataclass(frozen=True)
class Trial:
    """One int8 file: its calibration method, what is int8, and its drift from fp32.

    The drift is measured on some validation images. `drop` is the AUROC of fp32 minus that of int8;
    `flags` is the share of (image, finding) pairs whose flag changed.
    """

    calibration: str
    what: str
    path: Path
    auroc: float
    drop: float
    prob_max: float
    prob_mean: float
    flags: float = 0.0

    @property
    def excess(self) -> float:
        """Return the largest ratio of a drift to its limit.

        The drifts are the change of AUROC, the mean difference of probabilities, and the changed
        flags.
        """
        change = 0.0 if np.isnan(self.drop) else abs(self.drop)
        return max(change / LIMIT, self.prob_mean / PROB_LIMIT, self.flags / FLAG_LIMIT)

    @property
    def fine(self) -> bool:
        """Return whether predictions are close to those of fp32: no drift over its limit."""
        return self.excess <= 1


@dataclass(frozen=True)
class QuantizationJob:
    """What trials share.

    - plain: the fp32 file.
    - films: calibration images (N, S, S) uint8.
    - judge: the validation images to compare on.
    - folder: where the trials are written.
    """

    plain: Path
    films: np.ndarray
    judge: ValidationSet
    folder: Path

    @cached_property
    def model(self) -> onnx.ModelProto:
        model = onnx.load(self.plain)
        add_pre_process_metadata(
            model
        )  # avoids a warning of onnxruntime; batch norms are folded already
        return model


def macro_auroc(targets: np.ndarray, logits: np.ndarray) -> float:
    """Return the mean AUROC of logits (N, F) over the findings with both classes.

    `targets` are (N, F). NaN if no finding has both classes.
    """
    scores = []
    for y, values in zip(targets.T, logits.T, strict=True):
        ranks = np.unique(values, return_inverse=True)[1]
        scores.append(
            auroc(y, ranks / max(1, ranks.max()))
        )  # in [0, 1], with exactly the ties of the logits
    return float(mean_defined(np.array(scores)))


def quantize(bench: QuantizationJob, log: Callable[[str], None] = print) -> list[Trial]:
    """Try one recipe after another until one is fine; return all trials.

    The order is: everything, with minimum and maximum as range; convolutions and matrix products
    alone, calibrated by minimum and maximum, percentile, then entropy; then the best of these with
    the first and last layer in fp32, with the most sensitive quarter of the network in fp32, and
    with the most sensitive half. Raises ExportError when there is nothing to quantize, or too few
    images to calibrate on.
    """
    if not weighted_nodes(bench.model):
        raise ExportError(
            "nothing in this model can be quantized: it has no convolution with constant weights"
        )
    if len(bench.films) < _STRIDE:
        raise ExportError(
            f"{len(bench.films)} training images are too few to calibrate int8: {_STRIDE} are needed; export fp32"
        )
    trials: list[Trial] = []
    if not _try_recipes(bench, _whole_recipes(bench), trials, log):
        method = best_trial(trials).calibration
        _try_recipes(bench, _partial_recipes(bench, method), trials, log)
    return trials


def best_trial(trials: Sequence[Trial]) -> Trial:
    """Return the first fine trial, else the one that exceeds the limits least."""
    return next(
        (trial for trial in trials if trial.fine), min(trials, key=lambda trial: trial.excess)
    )


def drift_text(trial: Trial) -> str:
    """Return the changes from fp32 as a phrase."""
    return f"AUROC {-trial.drop:+.4f}, probabilities {trial.prob_mean:.4f} on average, flags {trial.flags:.1%} changed"


def halves(patients: Sequence[str]) -> np.ndarray:
    """Split images by a hash of the patient into two halves.

    Returns (N,): True for images to choose a recipe on, False for images to judge it on.
    """
    shuffled = sorted(set(patients), key=lambda patient: sha256(str(patient).encode()).digest())
    return np.isin(patients, shuffled[: (len(shuffled) + 1) // 2])


def _try_recipes(
    bench: QuantizationJob,
    recipes: Iterable[Recipe],
    trials: list[Trial],
    log: Callable[[str], None],
) -> bool:
    """Append the trial of each recipe to `trials`; stop at the first that is fine, and return
    True."""
    for method, what, nodes in recipes:
        path = bench.folder / f"int8-{len(trials)}.onnx"
        _write_int8(bench, path, method, nodes)
        trials.append(judged(bench.judge, method, what, path))
        log(f"int8, {method}, {what}: {drift_text(trials[-1])}")
        if trials[-1].fine:
            return True
    return False


def _whole_recipes(bench: QuantizationJob) -> Iterator[Recipe]:
    """Yield the recipes with all layers in int8."""
    heavy, light = weighted_nodes(bench.model), light_nodes(bench.model)
    if light:
        yield "minmax", "layers and activations", heavy + light
    for method in METHODS:
        yield method, "layers", heavy


def _partial_recipes(bench: QuantizationJob, method: str) -> Iterator[Recipe]:
    """Yield the recipes with some layers in fp32, calibrated by `method`."""
    heavy = weighted_nodes(bench.model)
    yield method, "layers, first and last in fp32", heavy[1:-1]
    parts = _by_harm(bench, method, heavy)
    for count, share in ((_PARTS // 4, "quarter"), (_PARTS // 2, "half")):
        yield (
            method,
            f"layers, most sensitive {share} in fp32",
            [name for part in parts[count:] for name in part],
        )


def _by_harm(bench: QuantizationJob, method: str, heavy: list[str]) -> list[list[str]]:
    """Return the layers in consecutive parts, the most sensitive part first.

    A part is more sensitive if quantizing it alone changes the logits more.
    """
    parts = [part.tolist() for part in np.array_split(np.array(heavy, dtype=object), _PARTS)]
    parts = [part for part in parts if part]
    wanted = run_file(bench.plain, bench.films)["logits"]
    path, harm = bench.folder / "part.onnx", []
    for part in parts:
        _write_int8(bench, path, method, part)
        harm.append(float(np.square(run_file(path, bench.films)["logits"] - wanted).mean()))
    return [parts[i] for i in np.argsort(harm)[::-1]]


def judged(judge: ValidationSet, method: str, what: str, path: Path) -> Trial:
    """Measure the drift of the file at `path` on the judge's images.

    Both fp32 and int8 use the calibration and thresholds of fp32. `method` and `what` describe the
    recipe.
    """
    found = run_file(path, judge.images)
    score = macro_auroc(judge.targets, found["logits"])
    gap = np.abs(found["probs"] - judge.answers["probs"])
    flags = (found["probs"] >= judge.thresholds) != (
        judge.answers["probs"] >= judge.thresholds
    )  # (N, F)
    drift = (judge.auroc - score, float(gap.max()), float(gap.mean()), float(flags.mean()))
    return Trial(method, what, path, score, *drift)


def _write_int8(bench: QuantizationJob, path: Path, method: str, nodes: list[str]) -> None:
    """Write one int8 file; activation ranges are cached per method in the job's folder."""
    if not nodes:
        raise ExportError(
            "no layer would be left in int8; this network is too small to quantize, export fp32"
        )
    model = onnx.ModelProto()
    model.CopyFrom(bench.model)
    with contextlib.redirect_stdout(
        io.StringIO()
    ):  # onnxruntime prints while it collects histograms
        quantize_static(
            model,
            path,
            _Films(bench.films),
            op_types_to_quantize=_TYPES,
            nodes_to_quantize=nodes,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[method],
            calibration_cache_path=bench.folder / f"{method}.json",
            extra_options={
                "CalibStridedMinMax": _STRIDE,
                "CalibTensorRangeSymmetric": False,
                "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
            },
        )


class _Films(CalibrationDataReader):
    """The images one at a time, truncated to a multiple of _STRIDE."""

    def __init__(self, films: np.ndarray):
        self.films = films[: len(films) // _STRIDE * _STRIDE]
        self.set_range(0, len(self.films))

    def __len__(self) -> int:
        return len(self.films)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.at, self.end = start_index, end_index

    def get_next(self) -> dict[str, np.ndarray] | None:
        if self.at >= self.end:
            return None
        self.at += 1
        return {"images": self.films[self.at - 1 : self.at]}
