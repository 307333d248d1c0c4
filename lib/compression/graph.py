"""Find the nodes of an exported model that can be int8.

In: the graph of an exported model. Out: the names of these nodes, in execution order.
"""

import onnx
from onnx import NodeProto

_WEIGHTED = ("Conv", "Gemm", "MatMul")
_LIGHT = ("Sigmoid", "Mul", "Add")


def weighted_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the backbone's convolutions and matrix products with constant weights.

    Squeeze-excitation is left out.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in _backbone(model)
        if node.op_type in _WEIGHTED
        and node.input[1] in constants
        and node.input[0] not in constants
    ]


def light_nodes(model: onnx.ModelProto) -> list[str]:
    """Return products, sums and sigmoids of activations (SiLU, gates, skip connections).

    A transformer has none: the inputs of its layer norms must keep their precision.
    """
    nodes = _backbone(model)
    if any(node.op_type == "LayerNormalization" for node in nodes):
        return []
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name for node in nodes if node.op_type in _LIGHT and constants.isdisjoint(node.input)
    ]


def _backbone(model: onnx.ModelProto) -> list[NodeProto]:
    """Return the nodes that lead to the output `embedding`, without squeeze-excitation."""
    maker = {output: node for node in model.graph.node for output in node.output}
    wanted, found = ["embedding"], set()
    while wanted:
        node = maker.get(wanted.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            wanted += node.input
    gates = _squeezed(model)
    return [node for node in model.graph.node if node.name in found - gates]


def _squeezed(model: onnx.ModelProto) -> set[str]:
    """Return the nodes that depend on means over the image alone.

    These are squeeze-excitation (Hu et al. 2018), and what follows pooling.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    squeezed, names = set(), set()
    for node in model.graph.node:  # in execution order
        given = [name for name in node.input if name and name not in constants]
        if node.op_type in ("ReduceMean", "GlobalAveragePool"):
            squeezed.update(node.output)
        elif given and squeezed.issuperset(given):
            squeezed.update(node.output)
            names.add(node.name)
    return names
