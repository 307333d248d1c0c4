"""Build the network that is exported and served.

In: a trained classifier. Out: one network from uint8 images to logits, probabilities, heat maps and
embedding. It contains all preprocessing except resizing, and computes no gradients: `models.cam`
and `models.attention` explain how.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from timm.models import VGG, VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from lib.exceptions import ExportError
from lib.files import INT8
from lib.inference.session import run_file
from lib.models.attention import TokenRelevance, check_transformer
from lib.models.cam import ACTIVATIONS, ConvolvedMaps, PooledMaps, is_pooled
from lib.models.classifier import Classifier, load_model
from lib.models.finer_maps import finer_backbone

LEAST_CELLS = 7
"""Least places per side of a heat map: 7 x 7 is usual, a stride of 32 on 224 px. A backbone with a
coarser map is computed on a finer grid if that leaves its predictions unchanged."""


class ServingModule(nn.Module):
    """The exported network: images uint8 (B, S, S) -> logits, probs, heatmaps, embedding.

    Shapes are logits (B, F), probs (B, F), heatmaps (B, F, h, w) and embedding (B, D). probs =
    sigmoid(slope * logits + intercept), the calibration (F,) of the card. Heat maps are those of
    the raw logits, >= 0 and not normalised. `size` is S. Raises ExportError for a model without
    closed-form heat maps here.
    """

    def __init__(
        self, model: Classifier, slope: Sequence[float], intercept: Sequence[float], size: int
    ):
        super().__init__()
        self.size = size
        self.answer = explainable_forward(model, size)
        self.register_buffer("mean", model.mean.clone())
        self.register_buffer("std", model.std.clone())
        self.register_buffer("slope", torch.tensor(slope, dtype=torch.float32))
        self.register_buffer("intercept", torch.tensor(intercept, dtype=torch.float32))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        grey = images.unsqueeze(1).float() / 255  # (B, 1, S, S)
        logits, heatmaps, embedding = self.answer((grey - self.mean) / self.std)  # of (B, 3, S, S)
        return logits, (self.slope * logits + self.intercept).sigmoid(), heatmaps, embedding


class EnsembleModule(nn.Module):
    """The mean of several served networks: images uint8 (B, S, S) -> the outputs of one of them.

    probs (B, F) are the mean of the members' calibrated probabilities, and logits (B, F) are theirs:
    log(p / (1 - p)), computed from the logarithms, so that they stay exact where a probability
    rounds to 0 or 1. heatmaps (B, F, h, w) are the mean of the members'. embedding (B, D) is the
    first member's: means of embeddings of different networks have no meaning. The members answer
    for the same findings, image size and backbone.
    """

    def __init__(self, members: Sequence[ServingModule]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.size = members[0].size

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits, probs, heatmaps, embeddings = zip(
            *(member(images) for member in self.members), strict=True
        )
        lines = zip(self.members, logits, strict=True)
        calibrated = torch.stack([m.slope * z + m.intercept for m, z in lines])  # (M, B, F)
        present, absent = (logsigmoid(z).logsumexp(0) for z in (calibrated, -calibrated))
        return (
            present - absent,
            torch.stack(probs).mean(0),
            torch.stack(heatmaps).mean(0),
            embeddings[0],
        )


Served = ServingModule | EnsembleModule


def explainable_forward(model: Classifier, size: int) -> nn.Module:
    """Return the module (B, 3, S, S) -> (logits, heatmaps, embedding) that suits the model.

    S is `size`. The module is in evaluation mode. Raises ExportError for a head that is not a chain
    of linear layers and (leaky) ReLUs. Also raises it for a backbone that is neither followed by
    plain global average pooling, nor a VGG, nor a plain vision transformer with a class token.
    """
    for layer in model.head:
        if not isinstance(layer, (nn.Linear, nn.Dropout, *ACTIVATIONS)):
            raise ExportError(
                f"the head holds {layer}: heat maps need linear layers, ReLU and LeakyReLU only"
            )
    backbone = model.backbone
    if isinstance(backbone, VisionTransformer):
        if reason := check_transformer(backbone):
            raise ExportError(
                f"no heat maps in closed form for this {type(backbone).__name__}: {reason}"
            )
        return TokenRelevance(backbone, model.head).eval()
    if isinstance(backbone, VGG):
        return ConvolvedMaps(backbone, model.head).eval()
    if is_pooled(backbone, size):
        finer, step = finer_backbone(backbone, size, LEAST_CELLS)
        return PooledMaps(finer, model.head, step).eval()
    raise ExportError(
        f"no heat maps in closed form for {type(backbone).__name__}: its features are not simply averaged over the "
        "image. Those of EfficientNet, ResNet, DarkNet, CSPNet, RepVGG, DenseNet and RegNet are; VGG and vision "
        "transformers with a class token are supported too. Export a run with one of those"
    )


@torch.inference_mode()
def heat_maps(folder: Path, images: np.ndarray, batch: int = 32) -> np.ndarray:
    """Return heat maps (N, F, h, w) of the model of the run in `folder`, as they are served.

    images: (N, S, S) uint8.
    """
    if (folder / INT8).exists():
        return run_file(folder / INT8, images)["heatmaps"]
    model, _ = load_model(folder)
    answer = explainable_forward(model, images.shape[-1])
    maps = []
    for start in range(0, len(images) or 1, batch):  # no images are one empty batch
        chunk = torch.from_numpy(images[start : start + batch])
        grey = chunk.unsqueeze(1).float() / 255  # (B, 1, S, S)
        maps.append(answer((grey - model.mean) / model.std)[1].numpy())
    return np.concatenate(maps)
