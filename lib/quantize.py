"""In: an exported model and films of its run. Out: int8 versions of it, each with what it costs in AUROC.

Static quantisation (Jacob et al. 2018; Krishnamoorthi 2018): QDQ, a scale per output channel for weights, one per
tensor for activations. Weights use 7 bits, so that processors without VNNI, which add pairs of products in 16 bits, do
not overflow and answer the same. Only what leads to the embedding is quantised: head, probabilities and the arithmetic
of the heat maps stay in floating point, and so does squeeze-excitation, whose tensors of one pixel gain nothing.
"""

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from lib.exceptions import ExportError
from lib.graphs import light_nodes, weighted_nodes
from lib.metrics import auroc
from lib.onnxfile import run_file

LIMIT = 0.005
"""The largest drop of validation macro AUROC that is shipped without being told to."""

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
_TYPES = ["Conv", "Gemm", "MatMul", "Sigmoid", "Mul", "Add"]
_STRIDE = 4  # films whose activations are held in memory at a time
_PARTS = 8  # of the network, quantised one by one to find those that suffer most


@dataclass(frozen=True)
class Judge:
    """What int8 is judged on: validation films (N, S, S) uint8, targets (N, F) with NaN, and the answers of fp32."""

    images: np.ndarray
    targets: np.ndarray
    answers: dict[str, np.ndarray]

    @cached_property
    def auroc(self) -> float:
        return macro_auroc(self.targets, self.answers["logits"])


@dataclass(frozen=True)
class Trial:
    """One int8 file: how it was calibrated, what is int8 in it, and its drift from fp32 on the validation films."""

    calibration: str
    what: str
    path: Path
    auroc: float
    drop: float
    prob_max: float
    prob_mean: float


@dataclass(frozen=True)
class Bench:
    """What trials share: the fp32 file, calibration films (N, S, S) uint8, the judge, and a folder to write into."""

    plain: Path
    films: np.ndarray
    judge: Judge
    folder: Path

    @cached_property
    def model(self) -> onnx.ModelProto:
        model = onnx.load(self.plain)
        add_pre_process_metadata(model)  # batch norms are folded already, so onnxruntime need not ask for it
        return model


def macro_auroc(targets: np.ndarray, logits: np.ndarray) -> float:
    """Mean AUROC of logits (N, F) over the findings that have both classes in targets (N, F); NaN where none has."""
    scores = []
    for y, values in zip(targets.T, logits.T, strict=True):
        ranks = np.unique(values, return_inverse=True)[1]
        scores.append(auroc(y, ranks / max(1, ranks.max())))  # in [0, 1], with the ties of the logits and no others
    known = [score for score in scores if not np.isnan(score)]
    return float(np.mean(known)) if known else float("nan")


def quantize(bench: Bench, tell: Callable[[str], None] = print) -> list[Trial]:
    """Tries one way after the other until the drop is at most LIMIT; returns all trials, the last one may be fine.

    In order: everything with minimum and maximum as range; convolutions and matrix products alone, calibrated by
    minimum and maximum, percentile, entropy; then the best of these with the first and last layer in fp32, with the
    quarter of the network that suffers most in fp32, and with half of it. Raises ExportError when there is nothing to
    quantise, or nothing to judge it by.
    """
    if not weighted_nodes(bench.model):
        raise ExportError("nothing in this model can be quantised: it has no convolution with constant weights")
    if len(bench.films) < _STRIDE:
        raise ExportError(
            f"{len(bench.films)} training films are too few to calibrate int8 on: {_STRIDE} are needed; export fp32"
        )
    if np.isnan(bench.judge.auroc):
        raise ExportError("int8 cannot be judged: no finding has both a positive and a negative validation film")
    trials: list[Trial] = []
    for method, what, nodes in _ladder(bench, trials):
        path = bench.folder / f"int8-{len(trials)}.onnx"
        _write_int8(bench, path, method, nodes)
        trials.append(_judged(bench.judge, method, what, path))
        tell(f"int8, {method}, {what}: drop {trials[-1].drop:+.4f}")
        if trials[-1].drop <= LIMIT:
            break
    return trials


def best_trial(trials: Sequence[Trial]) -> Trial:
    """The first whose drop is at most LIMIT, else the one with the smallest drop."""
    return next((trial for trial in trials if trial.drop <= LIMIT), min(trials, key=lambda trial: trial.drop))


def _ladder(bench: Bench, trials: list[Trial]) -> Iterator[tuple[str, str, list[str]]]:
    """(calibration, what is int8, nodes) of one trial after the other; later ones depend on what the earlier gave."""
    heavy, light = weighted_nodes(bench.model), light_nodes(bench.model)
    if light:
        yield "minmax", "layers and activations", heavy + light
    for method in METHODS:
        yield method, "layers", heavy
    method = best_trial(trials).calibration
    yield method, "layers, first and last in fp32", heavy[1:-1]
    parts = _by_harm(bench, method, heavy)
    for count, share in ((_PARTS // 4, "quarter"), (_PARTS // 2, "half")):
        yield method, f"layers, most sensitive {share} in fp32", [name for part in parts[count:] for name in part]


def _by_harm(bench: Bench, method: str, heavy: list[str]) -> list[list[str]]:
    """The layers in consecutive parts, the most sensitive part first: quantised alone, it changes the logits most."""
    parts = [part.tolist() for part in np.array_split(np.array(heavy, dtype=object), _PARTS)]
    parts = [part for part in parts if part]
    wanted = run_file(bench.plain, bench.films)["logits"]
    path, harm = bench.folder / "part.onnx", []
    for part in parts:
        _write_int8(bench, path, method, part)
        harm.append(float(np.square(run_file(path, bench.films)["logits"] - wanted).mean()))
    return [parts[i] for i in np.argsort(harm)[::-1]]


def _judged(judge: Judge, method: str, what: str, path: Path) -> Trial:
    found = run_file(path, judge.images)
    score = macro_auroc(judge.targets, found["logits"])
    gap = np.abs(found["probs"] - judge.answers["probs"])
    return Trial(method, what, path, score, judge.auroc - score, float(gap.max()), float(gap.mean()))


def _write_int8(bench: Bench, path: Path, method: str, nodes: list[str]) -> None:
    """One int8 file; activations are measured once a method, and kept in the bench's folder."""
    if not nodes:
        raise ExportError("no layer would be left in int8; this network is too small to quantise")
    model = onnx.ModelProto()
    model.CopyFrom(bench.model)
    with contextlib.redirect_stdout(io.StringIO()):  # the histograms announce themselves
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
    """The films, one at a time; a number that _STRIDE divides."""

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
