"""In: a CNN whose last feature map is coarse. Out: the same CNN on a finer grid, and how much finer.

A stride of 2 computes one place of four. Without it, and with all later kernels spread by the same
factor, the network also computes the places that it left out ("à trous": Holschneider et al. 1989;
for CNNs Chen et al. 2015, DeepLab). Every `step`-th place of the finer map is a place of the coarse
one, unchanged; the others are what the network answers when the image is shifted. So the coarse
places give the logits, and all places give the heat map.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

SPATIAL = (nn.Conv2d, nn.MaxPool2d)


@torch.no_grad()
def finer_backbone(backbone: nn.Module, size: int, cells: int) -> tuple[nn.Module, int]:
    """A backbone whose last feature map has at least `cells` places a side, and its step.

    With the step s, `features[..., ::s, ::s]` are the features of the original. That is tried on
    noise of `size` pixels, in double precision. The original itself and a step of 1 are returned
    where its map is fine enough, and where no exact copy exists: a backbone that averages over
    places on the way (squeeze-and-excitation, average pooling) or pads by the size of its input.
    """
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).double()
    fine = copy.deepcopy(backbone).double().eval()
    coarse, strides = _input_strides(fine, noise)
    places = coarse.shape[-1]
    if places >= cells:
        return backbone, 1
    step = 2 ** (-(-cells // places) - 1).bit_length()  # a power of two, as strides are
    for module, stride in strides.items():
        _spread(module, stride, widest=size // (places * step))
    try:
        features = fine.forward_features(noise)
    except RuntimeError:  # branches of different sizes: one of them is not strided by convolutions
        return backbone, 1
    exact = features.shape[-1] == places * step and torch.allclose(
        features[..., ::step, ::step], coarse, rtol=1e-9, atol=1e-9 * coarse.abs().max().item()
    )
    return (fine.float(), step) if exact else (backbone, 1)


def _input_strides(backbone: nn.Module, images: Tensor) -> tuple[Tensor, dict[nn.Module, int]]:
    """The last feature map, and per convolution and max pooling how many px its inputs lie apart."""
    strides: dict[nn.Module, int] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        strides[module] = round(images.shape[-1] / inputs[0].shape[-1])

    layers = [layer for layer in backbone.modules() if isinstance(layer, SPATIAL)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    features = backbone.forward_features(images)
    for hook in hooks:
        hook.remove()
    return features, strides


def _spread(layer: Any, stride: int, widest: int) -> None:
    """Changes a layer for inputs `widest` px apart where they lay `stride` px apart and wider."""
    spread = max(1, stride // widest)
    layer.dilation = _times(layer.dilation, spread)
    layer.padding = _times(layer.padding, spread)
    factor = layer.stride if isinstance(layer.stride, int) else layer.stride[0]
    left = min(stride * factor, widest) // min(stride, widest)
    layer.stride = left if isinstance(layer.stride, int) else (left, left)


def _times(value: Any, factor: int) -> Any:
    return value * factor if isinstance(value, int) else tuple(part * factor for part in value)
