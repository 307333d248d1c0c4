"""In: a CNN and its head. Out: logits, and Grad-CAM of every finding, from the same forward pass.

The heat maps are Grad-CAM (Selvaraju et al. 2017): ReLU(sum_k alpha_k A_k), where A_k (h, w) is
channel k of the last feature map and alpha_k the mean over its Z = h w places of d logit / d A_k.
No gradient has to be taken for it:

- Global average pooling gives every place 1/Z of the gradient of the pooled feature p_k: alpha_k =
  d logit / d p_k / Z.
- For a linear head that gradient is its weight, and Grad-CAM is CAM (Zhou et al. 2016) over Z.
- For a head W3 f(W2 f(W1 p)) with f a (leaky) ReLU it is W3 D2 W2 D1 W1: each D is diagonal and
  holds the slopes of f at what came into it in the same forward pass.
- Convolutions between A and the pooling (VGG) only meet alpha through a sum over places. The first
  has no padding, so every output reaches every weight of its kernel, and the sum of the gradient
  over its input is the sum over its output times the sum of its kernel. Resizing by averages, and
  max pooling, hand the sum on as it is.
"""

import torch
from timm.models import VGG
from torch import Tensor, nn

ACTIVATIONS = (nn.LeakyReLU, nn.ReLU)


@torch.no_grad()
def is_pooled(backbone: nn.Module, size: int) -> bool:
    """Return whether the backbone ends with plain global average pooling.

    This is tested on noise of `size` pixels. Nothing may follow the pooling.
    """
    noise = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    training = backbone.training
    features = backbone.eval().forward_features(noise)
    pooled = backbone.forward_head(features)
    backbone.train(training)
    if features.ndim != 4 or pooled.shape != features.shape[:2]:
        return False
    return torch.allclose(
        pooled, features.mean((2, 3)), rtol=1e-4, atol=1e-5 * features.abs().max().item()
    )


class PooledMaps(nn.Module):
    """Heat maps of backbones that end with global average pooling: A is what is pooled.

    With `step` > 1 the backbone's map is finer, and only every `step`-th place of it is pooled
    (`models.finer_maps`).
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, step: int = 1):
        super().__init__()
        self.backbone, self.head, self.step = backbone, head, step

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.backbone.forward_features(pixels)  # (B, K, s h, s w)
        pooled = features[..., :: self.step, :: self.step]  # (B, K, h, w)
        embedding = pooled.mean((2, 3))  # (B, K)
        logits, gradient = head_gradient(self.head, embedding)
        places = pooled.shape[2] * pooled.shape[3]
        return logits, weighted_maps(gradient / places, features), embedding


class ConvolvedMaps(nn.Module):
    """Heat maps of VGG, which has convolutions and ReLUs between the last feature map and pooling.

    A is the output of the last convolution of the stack, before max pooling, as in Selvaraju et al.
    """

    def __init__(self, backbone: VGG, head: nn.Module):
        super().__init__()
        self.backbone, self.head = backbone, head
        self.register_buffer(
            "kernel_sum", backbone.pre_logits.fc1.weight.detach().sum((2, 3))
        )  # (M, K)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tail = self.backbone.pre_logits
        features = self.backbone.features[:-1](pixels)  # (B, K, h, w)
        resized = _at_least(self.backbone.features[-1](features), tail.input_kernel_size)
        first = tail.fc1(resized)  # (B, M, h', w')
        second = tail.fc2(first.relu())  # (B, D, h', w')
        embedding = second.relu().mean((2, 3))  # (B, D)
        logits, gradient = head_gradient(self.head, embedding)  # (B, F), (B, F, D)
        places = second.shape[2] * second.shape[3]
        slope = (second > 0).float().flatten(2).transpose(1, 2).unsqueeze(1)  # (B, 1, P, D)
        upstream = (gradient.unsqueeze(2) / places * slope) @ tail.fc2.weight.flatten(
            1
        )  # (B, F, P, M)
        slope = (first > 0).float().flatten(2).transpose(1, 2).unsqueeze(1)  # (B, 1, P, M)
        summed = (upstream * slope).sum(2) @ self.kernel_sum  # (B, F, K): over all places of A
        places = features.shape[2] * features.shape[3]
        return logits, weighted_maps(summed / places, features), embedding


def _at_least(features: Tensor, side: int) -> Tensor:
    """Resize a feature map smaller than the kernel by average pooling, as timm's VGG does."""
    height, width = features.shape[-2:]
    if height >= side and width >= side:
        return features
    return nn.functional.adaptive_avg_pool2d(features, (max(side, height), max(side, width)))


def head_gradient(head: nn.Sequential, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (B, F) of features (B, D), and d logits / d features (B, F, D).

    Both use forward operations only.
    """
    slopes, values = [], features
    for layer in head:
        if isinstance(layer, ACTIVATIONS):
            below = getattr(layer, "negative_slope", 0.0)
            slopes.append(torch.where(values > 0, 1.0, below).unsqueeze(1))  # (B, 1, D)
        values = layer(values)
    gradient = None
    for layer in reversed(head):
        if isinstance(layer, nn.Linear):
            gradient = layer.weight if gradient is None else gradient @ layer.weight
        elif isinstance(layer, ACTIVATIONS):
            gradient = gradient * slopes.pop()
    return values, gradient.expand(features.shape[0], -1, -1)


def weighted_maps(alpha: Tensor, features: Tensor) -> Tensor:
    """ReLU(sum_k alpha_k A_k) (B, F, h, w) of alpha (B, F, K) and A (B, K, h, w)."""
    return (alpha @ features.flatten(2)).relu().unflatten(2, features.shape[2:])
