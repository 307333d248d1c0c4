"""Write an ONNX file and check it with onnxruntime.

In: a network to serve. Out: its ONNX file with the card inside, and the largest difference from
torch.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from lib.exceptions import ExportError
from lib.inference.predictor import OUTPUTS, parse_card
from lib.inference.session import run_file
from lib.models.heatmaps import Served

OPSET = 18
TOLERANCE = 1e-4


def write_onnx(served: Served, path: Path) -> None:
    """Write the graph for images (B, S, S), with B variable.

    Batch norms are folded into the convolutions before them. The exporter's notes about source
    files are removed. The file is checked against the ONNX standard.
    """
    films = torch.zeros(2, served.size, served.size, dtype=torch.uint8)  # (B, S, S)
    batch = {"images": {0: torch.export.Dim("batch")}}
    program = torch.onnx.export(
        served.eval(),
        (films,),
        input_names=["images"],
        output_names=list(OUTPUTS),
        dynamic_shapes=batch,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    model = program.model_proto
    _forget_sources(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _forget_sources(model: onnx.ModelProto) -> None:
    graph = model.graph
    for part in (
        model,
        graph,
        *graph.node,
        *graph.initializer,
        *graph.value_info,
        *graph.input,
        *graph.output,
    ):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def write_card(path: Path, card: Mapping[str, Any]) -> None:
    """Write `card` into the file as JSON under the key "card", and drop all other metadata."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"card": json.dumps(card, allow_nan=False)})
    model.ClearField("doc_string")
    onnx.save(model, path)


def read_card(path: Path) -> dict[str, Any]:
    """Return the card in an exported file; raises ExportError when it has none."""
    props = {
        prop.key: prop.value for prop in onnx.load(path, load_external_data=False).metadata_props
    }
    if "card" not in props:
        raise ExportError(f"{path} holds no card: it was not written by `cxr export`")
    return parse_card(props["card"], path)


def golden_films(size: int, films: np.ndarray | None = None) -> np.ndarray:
    """Return images (N, size, size) uint8 to compare outputs on.

    They are ramps from each side, and the first eight of `films`. Noise and flat images are left
    out: input that a network never sees can drive it to values where rounding decides.
    """
    ramp = np.broadcast_to(np.linspace(0, 255, size, dtype=np.uint8), (size, size))
    ramps = np.stack([ramp, ramp.T, ramp[:, ::-1], ramp.T[::-1]])
    return ramps if films is None else np.concatenate([ramps, films[:8]])


@torch.inference_mode()
def check_parity(served: Served, path: Path, images: np.ndarray) -> float:
    """Return the largest difference of probabilities between torch and the file.

    `images` are (N, S, S) uint8. Logits, heat maps and embeddings are compared too, relative to the
    largest value of each if that is over 1. Raises ExportError when a difference is over 1e-4.
    """
    wanted = dict(zip(OUTPUTS, served.eval()(torch.from_numpy(images.copy())), strict=True))
    found = run_file(path, images)
    for name, values in wanted.items():
        scale = max(1.0, float(values.abs().max()))
        gap = float(np.abs(values.numpy() - found[name]).max()) / scale
        if not gap <= TOLERANCE:
            raise ExportError(
                f"the ONNX file's {name} differ from torch's by {gap:.2g}; nothing was exported"
            )
    return float(np.abs(wanted["probs"].numpy() - found["probs"]).max())
