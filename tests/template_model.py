"""An ONNX file with the exported model's contract whose logits are sums of weighted grey levels:
what it looks at is known exactly."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from tiny_model import tiny_card


def write_template_model(
    path: Path, templates: dict[str, np.ndarray], above: float = 0.0, **changes
) -> Path:
    """logit = sum(template * max(grey - above, 0)) for each finding's template (S, S), with grey in
    [0, 1]; heat maps are the 4 x 4 means of the grey levels, the same for each finding; the
    embedding is the mean grey, twice."""
    size, count = len(next(iter(templates.values()))), len(templates)
    weights = np.stack([one.ravel() for one in templates.values()], axis=1)  # (S * S, F)
    cell = size // 4
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [1 / 255]),
        helper.make_tensor("channel", TensorProto.INT64, [1], [1]),
        helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.ravel()),
        helper.make_tensor("above", TensorProto.FLOAT, [], [above]),
        helper.make_tensor("repeats", TensorProto.INT64, [4], [1, count, 1, 1]),
    ]
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "channel"], ["grey"]),
        helper.make_node(
            "AveragePool", ["grey"], ["coarse"], kernel_shape=[cell] * 2, strides=[cell] * 2
        ),
        helper.make_node("Tile", ["coarse", "repeats"], ["heatmaps"]),
        helper.make_node("GlobalAveragePool", ["grey"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["mean"]),
        helper.make_node("Concat", ["mean", "mean"], ["embedding"], axis=1),
        helper.make_node("Sub", ["grey", "above"], ["less"]),
        helper.make_node("Relu", ["less"], ["bright"]),
        helper.make_node("Flatten", ["bright"], ["row"]),
        helper.make_node("MatMul", ["row", "weights"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probs"]),
    ]
    shapes = {"logits": [count], "probs": [count], "heatmaps": [count, 4, 4], "embedding": [2]}
    graph = helper.make_graph(
        nodes,
        "template",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", size, size])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", *shape])
            for name, shape in shapes.items()
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    card = tiny_card(
        **{"name": path.stem, "findings": list(templates), "image_size": size}
        | {"thresholds": [0.5] * count}
        | changes
    )
    helper.set_model_props(model, {"card": json.dumps(card)})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
