"""In: a classifier and images. Out: its backbone's activations after each depth that can be frozen.

The depths are those of `backbone_stages`, in whose order `freeze: k` freezes: the stem, then each
stage or block. What is compared is the output of the last module of a depth. It is averaged over at
most 4 x 4 fields of the image, and each field of each image is one example. Averaged over the whole
image, early activations, which answer to small patterns anywhere, would say little more than how
bright an image is; and with one example per image, fewer than channels, unrelated networks would look
alike.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.models.classifier import Classifier, backbone_stages

FIELDS = 4
"""Fields per side into which the activations of an image are averaged."""
BATCH = 32


def depth_names(model: Classifier) -> list[str]:
    """Which modules each depth of the backbone holds."""
    return [_name(parameters) for parameters in backbone_stages(model.backbone)]


@torch.inference_mode()
def depth_activations(
    model: Classifier, pixels: np.ndarray, device: torch.device | str = "cpu"
) -> list[np.ndarray]:
    """The activations of images (N, S, S) uint8 after each depth: (N * fields, C) float32 each.

    Each field is centred over the images: what all images have in common there, such as dark edges,
    says nothing of how the network tells them apart. The model is left in evaluation mode.
    """
    model.to(device).eval()
    batches = [
        torch.from_numpy(np.array(pixels[start : start + BATCH])).to(device).unsqueeze(1)
        for start in range(0, len(pixels), BATCH)
    ]  # (B, 1, S, S) uint8 each
    modules = _last_modules(model, batches[0][:1].float() / 255)
    channels_last = getattr(model.backbone, "output_fmt", "NCHW") == "NHWC"
    parts: list[list[Tensor]] = [[] for _ in modules]

    def keep(depth: int) -> Callable[..., None]:
        # Averaged at once: a later module may change its input in place.
        return lambda _, __, output: parts[depth].append(_fields(output, channels_last).cpu())

    with _hooks(modules, keep):
        for batch in batches:
            model(batch.float() / 255)
    return [_centred(torch.cat(collected)) for collected in parts]


def _last_modules(model: Classifier, image: Tensor) -> list[nn.Module]:
    """Of each depth the module that ends last, of those whose weights all belong to it; image: (1,
    1, S, S)."""
    stages = backbone_stages(model.backbone)
    depths = {name: depth for depth, names in enumerate(stages) for name in names}
    inside: list[tuple[nn.Module, int]] = []
    for name, module in model.backbone.named_modules():
        found = {depths[f"{name}.{own}"] for own, _ in module.named_parameters() if name}
        inside += [(module, depth) for depth in found if len(found) == 1]
    last: dict[int, nn.Module] = {}

    def note(index: int) -> Callable[..., None]:
        return lambda module, _, __: last.update({inside[index][1]: module})

    with _hooks([module for module, _ in inside], note):
        model(image)
    return [last[depth] for depth in range(len(stages))]


@contextmanager
def _hooks(modules: Sequence[nn.Module], made: Callable[[int], Callable]) -> Iterator[None]:
    """Calls made(i)(module, inputs, output) whenever the i-th module has run."""
    handles = [module.register_forward_hook(made(i)) for i, module in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fields(output: Tensor | tuple, channels_last: bool) -> Tensor:
    """(B, C, h, w), tokens (B, T, C) or vectors (B, C) -> (B, fields, C); of several outputs the
    first."""
    output = output[0] if isinstance(output, tuple | list) else output
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
    """(N, fields, C) -> (N * fields, C), each field centred over the images."""
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
