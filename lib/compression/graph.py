"""In: the graph of an exported model. Out: the names of the nodes that int8 is for, in the order in
which they run."""

import onnx
from onnx import NodeProto

_WEIGHTED = ("Conv", "Gemm", "MatMul")
_LIGHT = ("Sigmoid", "Mul", "Add")


def weighted_nodes(model: onnx.ModelProto) -> list[str]:
    """The backbone's convolutions and matrix products with constant weights, squeeze-excitation
    left out."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in _backbone(model)
        if node.op_type in _WEIGHTED
        and node.input[1] in constants
        and node.input[0] not in constants
    ]


def light_nodes(model: onnx.ModelProto) -> list[str]:
    """The products, sums and sigmoids of activations between convolutions (SiLU, gates, skip
    connections).

    None in a transformer: what its layer norms are given must keep its precision.
    """
    nodes = _backbone(model)
    if any(node.op_type == "LayerNormalization" for node in nodes):
        return []
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name for node in nodes if node.op_type in _LIGHT and constants.isdisjoint(node.input)
    ]


def _backbone(model: onnx.ModelProto) -> list[NodeProto]:
    """What leads to the output `embedding`, less squeeze-excitation."""
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
    """The nodes fed by means over the film alone: squeeze-excitation (Hu et al. 2018), and what
    follows pooling."""
    constants = {tensor.name for tensor in model.graph.initializer}
    squeezed, names = set(), set()
    for node in model.graph.node:  # in the order in which they run
        given = [name for name in node.input if name and name not in constants]
        if node.op_type in ("ReduceMean", "GlobalAveragePool"):
            squeezed.update(node.output)
        elif given and squeezed.issuperset(given):
            squeezed.update(node.output)
            names.add(node.name)
    return names
