"""Compute the last feature map of a CNN on a finer grid, without changing its predictions.

In: a CNN whose last feature map is coarse. Out: the same CNN on a finer grid, and how much finer.

A stride of 2 computes one place out of four. If the stride is removed and all later kernels are
dilated by the same factor, the network also computes the skipped places ("à trous": Holschneider et
al. 1989; for CNNs Chen et al. 2015, DeepLab). Every `step`-th place of the finer map equals a place
of the coarse map. The others are the network's outputs for a shifted image. So the coarse places
give the logits, and all places give the heat map.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

SPATIAL = (nn.Conv2d, nn.MaxPool2d)


@torch.no_grad()
def finer_backbone(backbone: nn.Module, size: int, cells: int) -> tuple[nn.Module, int]:
    """Return a backbone whose last feature map has at least `cells` places per side, and its step.

    With the step s, `features[..., ::s, ::s]` are the features of the original. This is checked on
    noise of `size` pixels, in double precision. The original and a step of 1 are returned when its
    map is fine enough, and when no exact copy exists: the backbone averages over places on the way
    (squeeze-and-excitation, average pooling) or pads by the size of its input.
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
    """Return the last feature map, and the input stride of each convolution and max pooling.

    The stride is how many pixels of the image lie between neighbouring inputs of the layer.
    """
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
    """Adapt a layer to inputs `widest` px apart that used to be `stride` px apart or more."""
    spread = max(1, stride // widest)
    layer.dilation = _times(layer.dilation, spread)
    layer.padding = _times(layer.padding, spread)
    factor = layer.stride if isinstance(layer.stride, int) else layer.stride[0]
    left = min(stride * factor, widest) // min(stride, widest)
    layer.stride = left if isinstance(layer.stride, int) else (left, left)


def _times(value: Any, factor: int) -> Any:
    return value * factor if isinstance(value, int) else tuple(part * factor for part in value)
