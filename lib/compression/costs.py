"""What exported files cost.

In: exported files. Out: multiply-adds, parameters, size, memory and latency, measured in one run;
which of them no other file beats in both latency and quality.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
from scipy.stats import binom

from lib.compression.compare import peak_memory_mb_of
from lib.inference.predictor import Predictor
from lib.inference.session import THREADS, latency_rounds

ROUNDS = 30
COUNTED = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8)


def export_costs(models: Mapping[str, Path], rounds: int = ROUNDS) -> pd.DataFrame:
    """Return one row per file with the columns model, multiply_adds (millions per film, heat maps
    included; NaN where a shape is not known), parameters (millions), megabytes, memory_mb (peak of
    a process that only predicts), milliseconds, ms_low, ms_high, threads.

    models: the file of each model by name. milliseconds are medians for one film, after a warm-up
    in each of the rounds; files of one image size take turns. Their 95 % interval is that of a
    median by order statistics (David and Nagaraja 2003, "Order statistics", section 7.1). Raises
    ExportError for what is no exported file.
    """
    sizes = {name: Predictor(path).image_size for name, path in models.items()}
    seconds: dict[str, np.ndarray] = {}
    for size in sorted(set(sizes.values())):
        seconds |= latency_rounds(
            {name: models[name] for name in models if sizes[name] == size}, size, rounds
        )
    rows = []
    for name, path in models.items():
        adds, parameters = network_size(path)
        low, high = median_interval(seconds[name])
        rows.append(
            {
                "model": name,
                "multiply_adds": adds / 1e6,
                "parameters": parameters / 1e6,
                "megabytes": path.stat().st_size / 2**20,
                "memory_mb": peak_memory_mb_of(path),
                "milliseconds": 1000 * float(np.median(seconds[name])),
                "ms_low": 1000 * low,
                "ms_high": 1000 * high,
                "threads": THREADS,
            }
        )
    return pd.DataFrame(rows)


def median_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the narrowest symmetric pair of order statistics that covers the median with at least
    this probability; NaN where the values (n,) are too few for it."""
    ordered, count = np.sort(values), len(values)
    below = int(binom.ppf((1 - level) / 2, count, 0.5))
    if below < 1:
        return math.nan, math.nan
    return float(ordered[below - 1]), float(ordered[count - below])


def network_size(path: Path) -> tuple[float, int]:
    """Return the multiply-adds of one film, in convolutions and matrix products, and the number of
    the file's constants that are numbers of 8, 16 or 32 bits.

    The multiply-adds are NaN where a shape cannot be inferred.
    """
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1  # one film
    del model.graph.value_info[:]  # whose shapes are those of any number of films
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes.setdefault(value.name, _shape(value))
    adds = sum(_multiply_adds(node, shapes) for node in graph.node)
    weights = [one for one in graph.initializer if one.data_type in COUNTED]
    return adds, sum(math.prod(one.dims) for one in weights)


def _shape(value: onnx.ValueInfoProto) -> tuple[float, ...]:
    """Return a shape; NaN for a side that is not known."""
    sides = value.type.tensor_type.shape.dim
    return tuple(side.dim_value if side.HasField("dim_value") else math.nan for side in sides)


def _multiply_adds(node: onnx.NodeProto, shapes: Mapping[str, tuple[Any, ...]]) -> float:
    """Return an output's elements times the products that each is a sum of; 0 for other nodes."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0.0
    made, given, weights = (shapes.get(name) for name in (node.output[0], *node.input[:2]))
    if made is None or given is None or weights is None:
        return math.nan
    if node.op_type == "Conv":
        return math.prod(made) * math.prod(weights[1:])
    turned = any(one.name == "transA" and one.i for one in node.attribute)
    return math.prod(made) * given[0 if turned else -1]


def pareto(table: pd.DataFrame, cost: str = "milliseconds", quality: str = "auroc") -> np.ndarray:
    """Return which rows (N,) no other row beats: none is as cheap and better, or as good and
    cheaper. A row without a number is not on the front."""
    costs, scores = table[cost].to_numpy(float), table[quality].to_numpy(float)
    known = ~(np.isnan(costs) | np.isnan(scores))
    cheaper, better = costs[None] <= costs[:, None], scores[None] >= scores[:, None]
    strictly = (costs[None] < costs[:, None]) | (scores[None] > scores[:, None])
    return known & ~(cheaper & better & strictly & known[None]).any(axis=1)
