"""Batch norm over the images of all ranks.

In: the part of a batch that one rank has. Out: what batch norm makes of it with the statistics of
the whole batch, so that training on several devices equals training on one.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules._functions import SyncBatchNorm
from torch.overrides import TorchFunctionMode


class GlobalBatchNorm(TorchFunctionMode):
    """While it is active, `F.batch_norm` in training uses the statistics over all ranks.

    All batch norm layers of torch and timm call this function, so that the network keeps its layers
    and the names of its weights. Batch norm without running statistics is left as it is: timm
    standardises weights with it, which are the same on every rank. On CUDA this is torch's
    SyncBatchNorm, which does not accept tensors on the CPU.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm and kwargs["training"] and args[1] is not None:
            return _global_batch_norm(*args, **kwargs)
        return func(*args, **kwargs)


def _global_batch_norm(
    images: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    values = (images, weight, bias, running_mean, running_var, eps, momentum)
    if images.device.type == "cpu":
        return _CpuBatchNorm.apply(*values)
    return SyncBatchNorm.apply(*values, dist.group.WORLD, dist.get_world_size())


class _CpuBatchNorm(torch.autograd.Function):
    """Batch norm of images (b, C, ...) over all ranks; b may be 0 on some of them."""

    @staticmethod
    def forward(ctx, images, weight, bias, running_mean, running_var, eps, momentum):
        values = images.float()
        mean, var, count = _global_statistics(values)
        if count == 1:
            raise ValueError(f"batch norm needs more than 1 value per channel, got {images.shape}")
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (count / (count - 1)), momentum)
        ctx.save_for_backward(values, mean, (var + eps).rsqrt(), weight)
        ctx.count = count
        return F.batch_norm(values, mean, var, weight, bias, False, 0.0, eps).to(images.dtype)

    @staticmethod
    def backward(ctx, gradient):
        values, mean, scale, weight = ctx.saved_tensors
        mean, scale = _per_channel(mean, values), _per_channel(scale, values)
        normal, gradient_in = (values - mean) * scale, gradient.float()
        dims = _all_but_channels(values)
        to_bias, to_weight = gradient_in.sum(dims), (gradient_in * normal).sum(dims)  # (C,) each
        means = torch.stack([to_bias, to_weight])
        dist.all_reduce(means)
        first, second = (_per_channel(part, values) for part in means / ctx.count)
        to_images = (gradient_in - first - normal * second) * scale
        if weight is None:
            return to_images.to(gradient.dtype), None, None, None, None, None, None
        to_images = to_images * _per_channel(weight, values)
        return to_images.to(gradient.dtype), to_weight, to_bias, None, None, None, None


def _global_statistics(values: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return mean (C,), biased variance (C,) and number of values per channel over all ranks."""
    channels, count = values.shape[1], values.numel() // values.shape[1]
    var, mean = values.new_zeros(2, channels)
    if count:
        var, mean = torch.var_mean(values, _all_but_channels(values), correction=0)
    mine = torch.cat([mean, var, values.new_tensor([count])]).double()
    gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, mine)
    means, variances, counts = torch.stack(gathered).split([channels, channels, 1], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total  # (C,)
    var = (counts * (variances + (means - mean) ** 2)).sum(0) / total
    return mean.float(), var.float(), total.item()


def _all_but_channels(values: Tensor) -> list[int]:
    return [dim for dim in range(values.ndim) if dim != 1]


def _per_channel(vector: Tensor, values: Tensor) -> Tensor:
    """Return (C,) in a shape that broadcasts with values (b, C, ...)."""
    return vector.view(1, -1, *[1] * (values.ndim - 2))
