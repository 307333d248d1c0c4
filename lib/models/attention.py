"""In: a vision transformer with a class token, and a head. Out: logits, and for each finding a map
over the patches.

In the last block the class token takes up o = W sum_j a_j v_j (+ bias) from the tokens j: a_j is
its attention to token j and v_j what that token gives, in every attention head. Nothing else of the
patches reaches the logit. With g the gradient of the logit at o, the share of token j is g . W a_j
v_j, to first order: its attention, weighted with what the value of that token does for this finding
(the norm of W a_j v_j is the measure of Kobayashi et al. 2020). As d logit / d a_j = g . W v_j, the
same number is attention times its gradient, summed over the attention heads, as in Chefer et al.
2021. The map is its positive part at the patches.

g is taken in forward operations: back through the head, the last layer norm, and the block's MLP,
for one token only.
"""

import copy
import math

import torch
import torch.nn.functional as F
from timm.layers import Attention, LayerScale, Mlp
from timm.models import VisionTransformer
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from lib.models.cam import head_gradient


def check_transformer(backbone: VisionTransformer) -> str:
    """Return why this transformer has no closed-form map; empty when it has one."""
    block = backbone.blocks[-1]
    parts = {
        "it has no class token to read": backbone.global_pool == "token"
        and backbone.attn_pool is None,
        "it normalises the pooled token": isinstance(backbone.fc_norm, nn.Identity),
        f"its last block is a {type(block).__name__}": type(block) is Block,
        "it is no plain transformer": type(backbone) is VisionTransformer
        and isinstance(backbone.norm, nn.LayerNorm),
    }
    if reason := next((reason for reason, fine in parts.items() if not fine), ""):
        return reason
    attention, mlp = block.attn, block.mlp
    parts = {
        "its attention is not plain": type(attention) is Attention and attention.gate is None,
        "its attention is normalised": isinstance(attention.norm, nn.Identity),
        "its MLP is not plain": type(mlp) is Mlp and isinstance(mlp.norm, nn.Identity),
        "its activation is not GELU": isinstance(mlp.act, nn.GELU)
        and mlp.act.approximate == "none",
        "its norms are not layer norms": isinstance(block.norm2, nn.LayerNorm),
        "it scales its layers in its own way": all(
            type(scale) in (nn.Identity, LayerScale) for scale in (block.ls1, block.ls2)
        ),
    }
    return next((reason for reason, fine in parts.items() if not fine), "")


class TokenRelevance(nn.Module):
    """Map (B, 3, S, S) to logits (B, F), heatmaps (B, F, h, w) and embedding (B, D).

    The last block is computed for the class token alone.
    """

    def __init__(self, backbone: VisionTransformer, head: nn.Module):
        super().__init__()
        trunk = copy.deepcopy(backbone)
        self.last, self.norm = trunk.blocks[-1], trunk.norm
        trunk.blocks, trunk.norm = trunk.blocks[:-1], nn.Identity()
        self.trunk, self.head = trunk, head
        self.prefix, self.grid = backbone.num_prefix_tokens, tuple(backbone.patch_embed.grid_size)
        qkv, inner = self.last.attn.qkv, self.last.attn.attn_dim
        for name, rows in (
            ("asks", slice(inner)),
            ("gives", slice(inner, None)),
        ):  # queries; keys and values
            self.register_buffer(f"{name}_weight", qkv.weight.detach()[rows].clone())
            self.register_buffer(
                f"{name}_bias", None if qkv.bias is None else qkv.bias.detach()[rows].clone()
            )

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens = self.trunk.forward_features(pixels)  # (B, N, D)
        weights, values = self._attend(self.last.norm1(tokens))  # (B, H, N), (B, H, N, d)
        taken = (weights.unsqueeze(2) @ values).flatten(1)  # (B, H d)
        token = tokens[:, 0] + self.last.ls1(self.last.attn.proj(taken))  # (B, D)
        hidden = self.last.mlp.fc1(self.last.norm2(token))  # (B, M)
        final = token + self.last.ls2(self.last.mlp.fc2(self.last.mlp.act(hidden)))  # (B, D)
        embedding = self.norm(final)
        logits, gradient = head_gradient(self.head, embedding)  # (B, F), (B, F, D)
        upstream = self._pull_back(gradient, final, token, hidden)  # (B, F, H d)
        heads = upstream.unflatten(2, values.shape[1::2]).transpose(1, 2)  # (B, H, F, d)
        shares = ((heads @ values.transpose(2, 3)) * weights.unsqueeze(2)).sum(1)  # (B, F, N)
        return logits, shares[:, :, self.prefix :].relu().unflatten(2, self.grid), embedding

    def _attend(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the class token's attention (B, H, N) and the values (B, H, N, d) per head."""
        attention = self.last.attn
        sizes = (attention.num_heads, attention.head_dim)
        queries = F.linear(tokens[:, :1], self.asks_weight, self.asks_bias).unflatten(
            2, sizes
        )  # (B, 1, H, d)
        given = F.linear(tokens, self.gives_weight, self.gives_bias).unflatten(
            2, (2, *sizes)
        )  # (B, N, 2, H, d)
        keys, values = given.permute(2, 0, 3, 1, 4)  # (B, H, N, d) each
        queries = attention.q_norm(queries.transpose(1, 2)) * attention.scale  # (B, H, 1, d)
        scores = queries @ attention.k_norm(keys).transpose(2, 3)  # (B, H, 1, N)
        return scores.softmax(3).squeeze(2), values

    def _pull_back(self, gradient: Tensor, final: Tensor, token: Tensor, hidden: Tensor) -> Tensor:
        """Pull d logit / d embedding back to the outputs of the attention heads.

        `gradient` is (B, F, D); the result is (B, F, H d).
        """
        block = self.last
        at_final = norm_gradient(self.norm, final, gradient)
        inside = (_scaled(at_final, block.ls2) @ block.mlp.fc2.weight) * gelu_slope(
            hidden
        ).unsqueeze(1)  # (B, F, M)
        at_token = at_final + norm_gradient(block.norm2, token, inside @ block.mlp.fc1.weight)
        return _scaled(at_token, block.ls1) @ block.attn.proj.weight


def norm_gradient(norm: nn.LayerNorm, values: Tensor, upstream: Tensor) -> Tensor:
    """Return d logit / d values (B, F, D) of a layer norm (Ba et al. 2016).

    values: (B, D), the input of the norm; upstream: (B, F, D), the gradient at its output.
    """
    centred = values - values.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()  # (B, 1)
    unit = (centred / deviation).unsqueeze(1)  # (B, 1, D)
    inner = upstream if norm.weight is None else upstream * norm.weight
    along = (inner * unit).mean(-1, keepdim=True) * unit
    return (inner - inner.mean(-1, keepdim=True) - along) / deviation.unsqueeze(1)


def gelu_slope(values: Tensor) -> Tensor:
    """The derivative of GELU (Hendrycks and Gimpel 2016): Phi(x) + x phi(x)."""
    density = torch.exp(-0.5 * values.square()) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(values / math.sqrt(2))) + values * density


def _scaled(gradient: Tensor, scale: nn.Module) -> Tensor:
    return gradient * scale.gamma if isinstance(scale, LayerScale) else gradient
