"""Measure what fewer bits per number do to speed and size of an exported network on this CPU.

In: sizes of networks. Out: rows of the table, each against fp32; those above 1 are slower, or
larger. Nothing here is offered by `cxr export` but static int8.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16

from benchmarks.compressed import STUDENT, WHOLE, Network, write_network
from benchmarks.predicting import write_int8
from benchmarks.timing import Row
from lib.inference.session import THREADS, latency_rounds, run_file

ROUNDS = 30
LEAST = 1024  # numbers of a weight; smaller ones stay as they are
_WEIGHTED = ("Conv", "Gemm", "MatMul")


def precision_rows(scratch: Path) -> list[Row]:
    """Measure time, file size and answers of each precision, for B4 and for the student."""
    return [row for network in (WHOLE, STUDENT) for row in _network_rows(network, scratch)]


def _network_rows(network: Network, scratch: Path) -> list[Row]:
    folder = scratch / network.short
    folder.mkdir()
    plain = write_network(network, folder)
    made = {name: make(plain, network.size, folder) for name, make in PRECISIONS.items()}
    seconds = latency_rounds({"fp32": plain, **made}, network.size, ROUNDS)
    films = np.random.default_rng(1).integers(0, 256, (8, network.size, network.size), np.uint8)
    wanted, rows = run_file(plain, films)["probs"], []
    for name, path in made.items():
        what = f"{network.text} alone, {THREADS} threads, {name}"
        time, usual = (1000 * float(np.median(seconds[one])) for one in (name, "fp32"))
        stored, larger = (one.stat().st_size / 2**20 for one in (path, plain))
        gap = float(np.abs(run_file(path, films)["probs"] - wanted).max())
        rows.append(Row(what, "ms", time, usual, "fp32"))
        rows.append(Row(f"{what}: file", "MB", stored, larger, "fp32"))
        rows.append(
            Row(
                f"{what}: largest change of a probability (random weights)", "", gap, against="fp32"
            )
        )
    return rows


def _float16(plain: Path, size: int, folder: Path) -> Path:
    """All numbers in 16 bits; the CPU computes most of them in 32, and converts in between."""
    path = folder / "float16.onnx"
    onnx.save(convert_float_to_float16(onnx.load(plain), keep_io_types=True), path)
    return path


def _dynamic(plain: Path, size: int, folder: Path) -> Path:
    """int8 products, with the ranges of activations measured at every prediction."""
    path = folder / "dynamic.onnx"
    quantize_dynamic(
        plain, path, op_types_to_quantize=list(_WEIGHTED), weight_type=QuantType.QUInt8
    )
    return path


def _stored(kind: str) -> Callable[[Path, int, Path], Path]:
    """Store the weights alone in fewer bits, and compute in 32."""

    def make(plain: Path, size: int, folder: Path) -> Path:
        model, path = onnx.load(plain), folder / f"{kind}.onnx"
        graph = model.graph
        weights = {one.name: one for one in graph.initializer}
        for name, axis in _large_weights(graph, weights).items():
            values = numpy_helper.to_array(weights[name])
            constants, nodes = _STORED[kind](name, values, axis)
            graph.initializer.remove(weights[name])
            graph.initializer.extend(constants)
            for node in reversed(nodes):
                graph.node.insert(0, node)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path

    return make


Stored = tuple[list[TensorProto], list[onnx.NodeProto]]
"""Constants, and the nodes that make the weight of them."""


def _half(name: str, values: np.ndarray, axis: int) -> Stored:
    constant = numpy_helper.from_array(values.astype(np.float16), f"{name}_16")
    return [constant], [helper.make_node("Cast", [constant.name], [name], to=TensorProto.FLOAT)]


def _int8(name: str, values: np.ndarray, axis: int) -> Stored:
    """Cast and Mul, which onnxruntime computes once when it loads the file."""
    whole, scale = _rounded(values, axis)
    constants = [
        numpy_helper.from_array(whole, f"{name}_8"),
        numpy_helper.from_array(scale, f"{name}_scale"),
    ]
    cast = helper.make_node("Cast", [f"{name}_8"], [f"{name}_wide"], to=TensorProto.FLOAT)
    return constants, [cast, helper.make_node("Mul", [f"{name}_wide", f"{name}_scale"], [name])]


def _int8_dequantized(name: str, values: np.ndarray, axis: int) -> Stored:
    """DequantizeLinear, which onnxruntime computes at every prediction."""
    whole, scale = _rounded(values, axis)
    constants = [
        numpy_helper.from_array(whole, f"{name}_8"),
        numpy_helper.from_array(scale.ravel(), f"{name}_scale"),
    ]
    inputs = [one.name for one in constants]
    return constants, [helper.make_node("DequantizeLinear", inputs, [name], axis=axis)]


def _rounded(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers from -127 to 127, and a scale per slice along `axis`, to be multiplied."""
    others = tuple(one for one in range(values.ndim) if one != axis)
    scale = np.abs(values).max(axis=others, keepdims=True) / 127
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale


def _large_weights(graph: onnx.GraphProto, weights: dict[str, TensorProto]) -> dict[str, int]:
    """The constant float weights of layers, and the axis of their output channels."""
    axes = {}
    for node in graph.node:
        found = weights.get(node.input[1]) if node.op_type in _WEIGHTED else None
        if found is None or found.data_type != TensorProto.FLOAT or np.prod(found.dims) < LEAST:
            continue
        turned = any(one.name == "transB" and one.i for one in node.attribute)
        axes[found.name] = 0 if node.op_type == "Conv" or turned else len(found.dims) - 1
    return axes


_STORED = {"half": _half, "int8": _int8, "dequantized": _int8_dequantized}
PRECISIONS: dict[str, Callable[[Path, int, Path], Path]] = {
    "fp16 (mixed precision)": _float16,
    "fp16 weights, widened at loading": _stored("half"),
    "int8 weights, widened at loading": _stored("int8"),
    "int8 weights, DequantizeLinear": _stored("dequantized"),
    "int8, dynamic": _dynamic,
    "int8, static (`cxr export --int8`)": write_int8,
}
