"""The two kinds of sub-layer, as functions of their matrices and norms, and what a stored block registers.

The sub-layers are those of Qwen3 (arXiv 2505.09388): RMSNorm, grouped-query attention with a norm on every head's
query and key, rotary positions, SwiGLU (2002.05202) or GELU (1606.08415), no biases. Each returns what is added to the
residual stream.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sharelm.model.attention import Causal
from sharelm.model.caches import Extend, Seen
from sharelm.model.recipes import Weights
from sharelm.sharing import ModelShape, Sharing
from sharelm.sharing.shape import Kind

NORM_EPSILON = 1e-6
Gains = dict[str, Tensor]


def rotary_table(shape: ModelShape, device: torch.device) -> Tensor:
    """Cosines and sines [2, context, head_width] of every position, in fp32 (RoFormer, arXiv 2104.09864).

    The sines of the first half are negative: what `turned` multiplies the swapped halves by.
    """
    exponents = torch.arange(0, shape.head_width, 2, dtype=torch.float32, device=device) / shape.head_width
    positions = torch.arange(shape.context, dtype=torch.float32, device=device)
    angles = torch.outer(positions, shape.rope_theta**-exponents)
    sines = torch.cat((-angles.sin(), angles.sin()), dim=-1)
    return torch.stack((angles.cos().repeat(1, 2), sines))


def turned(heads: Tensor, gain: Tensor, rotary: Tensor) -> Tensor:
    """RMSNorm of every head of `heads` [B, T, H, D], turned by the angles of its position.

    `rotary` is [2, B or 1, T, 1, D]. The turn comes before the division by the root mean square, which it does not
    change: so no half of a head waits for a sum, and a compiler makes one kernel of it all.
    """
    out: Tensor = _Turned.apply(heads, gain, rotary)  # type: ignore[no-untyped-call]
    return out


class _Turned(torch.autograd.Function):
    """With gradients by hand, of the turned-back slopes: a GPU takes a third less for them than for autograd's."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, gain: Tensor, rotary: Tensor) -> Tensor:
        exact = heads.float()
        inverse = torch.rsqrt(exact.square().mean(dim=-1, keepdim=True) + NORM_EPSILON)
        scaled = exact * gain.float()
        both = scaled * rotary[0] + scaled.roll(scaled.shape[-1] // 2, -1) * rotary[1]
        ctx.save_for_backward(heads, gain, rotary, inverse)
        return (both * inverse).to(heads.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None]:
        heads, gain, rotary, inverse = ctx.saved_tensors
        exact = slope.float()
        back = exact * rotary[0] - exact.roll(exact.shape[-1] // 2, -1) * rotary[1]
        unit, wide = heads.float() * inverse, back * gain.float()
        by_heads = inverse * (wide - unit * (wide * unit).mean(dim=-1, keepdim=True))
        return by_heads.to(heads.dtype), (back * unit).sum(dim=(0, 1, 2)).to(gain.dtype), None


class Linear(nn.Linear):
    """A matrix without bias that draws no weights of its own: `Decoder.initialise` or a file gives them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """Nothing: drawing twice would cost a large model seconds at every load."""


class Block(nn.Module):
    """What is registered of one block: its gains (norms by name), and its matrices by name; either may be elsewhere."""

    def __init__(self, gains: dict[str, int], matrices: dict[str, tuple[int, int]]) -> None:
        super().__init__()
        self._norms = tuple(gains)
        for name, width in gains.items():
            setattr(self, name, nn.RMSNorm(width, eps=NORM_EPSILON))
        for name, (outputs, inputs) in matrices.items():
            setattr(self, name, Linear(inputs, outputs))

    def gains(self) -> Gains:
        """The gains registered here, by name."""
        return {name: getattr(self, name).weight for name in self._norms}


def stored_blocks(shape: ModelShape, sharing: Sharing, kind: Kind) -> nn.ModuleList:
    """The stored blocks of a kind: tied matrices are not stored, and gains of each depth are stored elsewhere."""
    gains = {} if sharing.own_gains(kind) else shape.gains(kind)
    matrices = {name: size for name, size in shape.matrices(kind).items() if name not in sharing.tied(kind)}
    return nn.ModuleList(Block(gains, matrices) for _ in range(sharing.blocks(kind)))


def own_gains(shape: ModelShape, sharing: Sharing, kind: Kind) -> nn.ModuleList:
    """The gains of every depth, where depths have their own; nothing where they do not."""
    if not sharing.own_gains(kind):
        return nn.ModuleList()
    applied = [
        {name: width for name, width in shape.gains(kind).items() if depth in sharing.depths(kind, name)}
        for depth in range(sharing.depth)
    ]
    return nn.ModuleList(Block(gains, {}) for gains in applied)


def normed(x: Tensor, gain: Tensor) -> Tensor:
    """RMSNorm of `x` [..., width] (arXiv 1910.07467)."""
    return F.rms_norm(x, gain.shape, gain.to(x.dtype), NORM_EPSILON)


def attend(
    hidden: Tensor,
    gains: Gains,
    weights: Weights,
    rotary: Tensor,
    head_width: int,
    causal: Causal | None,
    extend: Extend | None,
    seen: Seen,
) -> tuple[Tensor, Seen]:
    """What causal grouped-query attention adds to `hidden` [B, T, width], and the keys and values it looked at.

    `causal` looks at whole sequences in place of torch's usual attention. `extend` adds a cache's earlier keys and
    values; `seen` gives those of an earlier depth, used in place of own ones.
    """

    def heads(flat: Tensor) -> Tensor:
        return flat.view(*flat.shape[:2], -1, head_width)

    inside = normed(hidden, gains["norm"])
    query = turned(heads(weights["query"](inside)), gains["query_norm"], rotary).transpose(1, 2)
    if seen is None:
        key = turned(heads(weights["key"](inside)), gains["key_norm"], rotary).transpose(1, 2)
        value = heads(weights["value"](inside)).transpose(1, 2)
        seen = (key, value, None) if extend is None else extend(key, value)
    key, value, mask = seen
    if causal is not None:
        mixed = causal(query, key, value)
    else:
        whole = mask is None and query.shape[2] > 1
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=whole, enable_gqa=True)
    return weights["output"](mixed.transpose(1, 2).flatten(2)), seen


def feed_forward(hidden: Tensor, gains: Gains, weights: Weights) -> Tensor:
    """What the feed-forward sub-layer adds to `hidden` [B, T, width]."""
    inside = normed(hidden, gains["norm"])
    if "gate" in weights:
        return weights["down"](F.silu(weights["gate"](inside)) * weights["up"](inside))
    return weights["down"](F.gelu(weights["up"](inside)))
