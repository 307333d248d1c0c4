"""A tiny ONNX file that keeps the exported model's contract, with answers that can be worked out by
hand."""

import json
from pathlib import Path

import onnx
from onnx import TensorProto, helper

SIZE = 32
FINDINGS = ("Atelectasis", "Cardiomegaly", "Effusion")
BIAS = (-4.0, -2.0, 0.0)
SLOPE = (8.0, 4.0, 0.0)


def tiny_card(**changes) -> dict:
    """The card of the tiny model: all that the predictor asks for."""
    card = {
        "format": 1,
        "name": "tiny",
        "findings": list(FINDINGS),
        "image_size": SIZE,
        "thresholds": [0.5, 0.6, 0.7],
    }
    return card | {"familiarity": None} | changes


def write_tiny_model(path: Path, **changes) -> Path:
    """logit = SLOPE * mean grey in [0, 1] + BIAS; probs are its sigmoid; heat maps are 4 x 4 means
    times SLOPE; the embedding is the mean grey, twice.
    """
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [1 / 255]),
        helper.make_tensor("channel", TensorProto.INT64, [1], [1]),
        helper.make_tensor("slope", TensorProto.FLOAT, [1, 3], SLOPE),
        helper.make_tensor("slopes", TensorProto.FLOAT, [1, 3, 1, 1], SLOPE),
        helper.make_tensor("bias", TensorProto.FLOAT, [1, 3], BIAS),
    ]
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "channel"], ["grey"]),
        helper.make_node("AveragePool", ["grey"], ["coarse"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Mul", ["coarse", "slopes"], ["heatmaps"]),
        helper.make_node("GlobalAveragePool", ["grey"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["mean"]),
        helper.make_node("Concat", ["mean", "mean"], ["embedding"], axis=1),
        helper.make_node("Mul", ["mean", "slope"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probs"]),
    ]
    shapes = {
        "logits": ["B", 3],
        "probs": ["B", 3],
        "heatmaps": ["B", 3, 4, 4],
        "embedding": ["B", 2],
    }
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", SIZE, SIZE])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in shapes.items()
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"card": json.dumps(tiny_card(**changes))})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
