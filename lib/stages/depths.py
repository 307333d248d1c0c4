"""In: a classifier and films. Out: its backbone's activations after each depth that can be frozen.

The depths are those of `backbone_stages`, in whose order `freeze: k` freezes: the stem, then each
stage or block. What is compared is the output of the last module of a depth. It is averaged over at
most 4 x 4 fields of the image, and each field of each film is one example. Averaged over the whole
image, early activations, which answer to small patterns anywhere, would say little more than how
bright a film is; and with one example per film, fewer than channels, unrelated networks would look
alike.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.models.classifier import Classifier, backbone_stages

FIELDS = 4
"""Fields per side into which the activations of a film are averaged."""
BATCH = 32


def depth_names(model: Classifier) -> list[str]:
    """Which modules each depth of the backbone holds."""
    return [_name(parameters) for parameters in backbone_stages(model.backbone)]


@torch.inference_mode()
def depth_activations(
    model: Classifier, pixels: np.ndarray, device: torch.device | str = "cpu"
) -> list[np.ndarray]:
    """The activations of films (N, S, S) uint8 after each depth: (N * fields, C) float32 each.

    Each field is centred over the films: what all films have in common there, such as dark edges,
    says nothing of how the network tells them apart. The model is left in evaluation mode.
    """
    model.to(device).eval()
    last: dict[int, Tensor] = {}
    hooks = [
        module.register_forward_hook(_keeper(last, depth))
        for module, depth in _modules(model.backbone)
    ]
    channels_last = getattr(model.backbone, "output_fmt", "NCHW") == "NHWC"
    parts: list[list[Tensor]] = [[] for _ in backbone_stages(model.backbone)]
    try:
        for start in range(0, len(pixels), BATCH):
            images = torch.from_numpy(np.array(pixels[start : start + BATCH])).to(device)
            model(images.unsqueeze(1).float() / 255)  # of (B, 1, S, S)
            for depth, collected in enumerate(parts):
                collected.append(_fields(last[depth], channels_last).cpu())
    finally:
        for hook in hooks:
            hook.remove()
    return [_centred(torch.cat(collected)) for collected in parts]


def _modules(backbone: nn.Module) -> list[tuple[nn.Module, int]]:
    """The modules whose weights all belong to one depth, with that depth."""
    stages = backbone_stages(backbone)
    depths = {name: depth for depth, names in enumerate(stages) for name in names}
    found = []
    for name, module in backbone.named_modules():
        inside = {depths[f"{name}.{own}"] for own, _ in module.named_parameters() if name}
        if len(inside) == 1:
            found.append((module, inside.pop()))
    return found


def _keeper(last: dict[int, Tensor], depth: int) -> Callable[..., None]:
    """A hook that notes a module's output; the last to run within a depth is that depth's."""

    def note(_: nn.Module, __: tuple, output: Tensor | tuple) -> None:
        last[depth] = output[0] if isinstance(output, tuple | list) else output

    return note


def _fields(output: Tensor, channels_last: bool) -> Tensor:
    """(B, C, h, w), tokens (B, T, C) or vectors (B, C) -> (B, fields, C)."""
    if output.ndim == 2:
        return output.float().unsqueeze(1)
    if output.ndim == 3:
        tokens = output.float().transpose(1, 2)  # (B, C, T)
        fields = min(FIELDS**2, tokens.shape[-1])
        return F.adaptive_avg_pool1d(tokens, fields).transpose(1, 2)
    maps = output.float().permute(0, 3, 1, 2) if channels_last else output.float()
    size = [min(FIELDS, side) for side in maps.shape[-2:]]
    return F.adaptive_avg_pool2d(maps, size).flatten(2).transpose(1, 2)


def _centred(fields: Tensor) -> np.ndarray:
    """(N, fields, C) -> (N * fields, C), each field centred over the films."""
    return (fields - fields.mean(dim=0)).flatten(0, 1).numpy()


def _name(parameters: list[str]) -> str:
    """["blocks.6.0.conv.weight", "blocks.6.1.bn.bias", "bn2.bias"] -> "blocks.6, bn2"."""
    tops: dict[str, set[str]] = {}
    for name in parameters:
        top, _, rest = name.partition(".")
        tops.setdefault(top, set()).add(rest.partition(".")[0])
    names = []
    for top, inner in tops.items():
        number = inner.pop() if len(inner) == 1 else ""
        names.append(f"{top}.{number}" if number.isdecimal() else top)
    return ", ".join(names)
