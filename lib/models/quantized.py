"""Networks that were quantized to int8.

In: the folder of a run. Out: its network, trained or quantized, as a module that answers.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from lib.files import INT8
from lib.inference.session import open_session
from lib.models.classifier import load_model


class QuantizedNetwork(nn.Module):
    """The network of an int8 file, which onnxruntime computes on the CPU: grey images (B, 1, S, S)
    in [0, 1] -> logits (B, F).

    The file takes pixels as bytes: images are rounded to 1/255. Nothing in it can be trained.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.session = open_session(path, torch.get_num_threads())

    def forward(self, images: Tensor) -> Tensor:
        films = (images[:, 0].float() * 255).round().byte().cpu().numpy()
        logits = self.session.run(["logits"], {"images": films})[0]
        return torch.from_numpy(logits).to(images.device)


def load_network(folder: Path) -> nn.Module:
    """Return the network of the run in `folder`, in evaluation mode: images -> logits, as
    `Classifier`.

    Raises ModelError when a file is missing or damaged, and ExportError for a damaged int8 file.
    """
    if (folder / INT8).exists():
        return QuantizedNetwork(folder / INT8).eval()
    return load_model(folder)[0]
