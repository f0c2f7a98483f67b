"""The two kinds of stored block. Each carries its own input norm and returns what is added to the residual stream.

The block is the one of Qwen3 (arXiv 2505.09388): RMSNorm, grouped-query attention with a norm on every head's
query and key, rotary positions, SwiGLU, no biases.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharelm.model.caches import Extend
from sharelm.sharing import ModelShape

NORM_EPSILON = 1e-6


def rotary_table(shape: ModelShape, device: torch.device) -> Tensor:
    """Cosines and sines [2, context, head_width] of every position, in fp32 (RoFormer, arXiv 2104.09864)."""
    exponents = torch.arange(0, shape.head_width, 2, dtype=torch.float32, device=device) / shape.head_width
    positions = torch.arange(shape.context, dtype=torch.float32, device=device)
    angles = torch.outer(positions, shape.rope_theta**-exponents).repeat(1, 2)
    return torch.stack((angles.cos(), angles.sin()))


def rotate(heads: Tensor, rotary: Tensor) -> Tensor:
    """Heads [B, H, T, D] turned by the angles of their positions, `rotary` [2, B or 1, 1, T, D]."""
    first, second = heads.chunk(2, dim=-1)
    return heads * rotary[0] + torch.cat((-second, first), dim=-1) * rotary[1]


class Linear(nn.Linear):
    """A matrix without bias that draws no weights of its own: `Decoder.initialise` or a file gives them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """Nothing: drawing twice would cost a large model seconds at every load."""


class AttentionBlock(nn.Module):
    """Causal grouped-query attention over [B, T, width]."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.head_width = shape.head_width
        queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
        self.norm = nn.RMSNorm(shape.width, eps=NORM_EPSILON)
        self.query = Linear(shape.width, queries)
        self.key = Linear(shape.width, keys)
        self.value = Linear(shape.width, keys)
        self.query_norm = nn.RMSNorm(shape.head_width, eps=NORM_EPSILON)
        self.key_norm = nn.RMSNorm(shape.head_width, eps=NORM_EPSILON)
        self.output = Linear(queries, shape.width)

    def _heads(self, flat: Tensor) -> Tensor:
        return flat.view(*flat.shape[:2], -1, self.head_width).transpose(1, 2)

    def forward(self, hidden: Tensor, rotary: Tensor, extend: Extend | None = None) -> Tensor:
        """What this block adds to `hidden`; `extend` adds a cache's earlier keys and values."""
        normed = self.norm(hidden)
        query = rotate(self.query_norm(self._heads(self.query(normed))), rotary)
        key = rotate(self.key_norm(self._heads(self.key(normed))), rotary)
        value = self._heads(self.value(normed))
        mask = None
        if extend is not None:
            key, value, mask = extend(key, value)
        causal = mask is None and query.shape[2] > 1
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=True)
        result: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return result


class FeedForwardBlock(nn.Module):
    """SwiGLU over [B, T, width] (arXiv 2002.05202)."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(shape.width, eps=NORM_EPSILON)
        self.gate = Linear(shape.width, shape.feed_forward)
        self.up = Linear(shape.width, shape.feed_forward)
        self.down = Linear(shape.feed_forward, shape.width)

    def forward(self, hidden: Tensor) -> Tensor:
        """What this block adds to `hidden`."""
        normed = self.norm(hidden)
        result: Tensor = self.down(F.silu(self.gate(normed)) * self.up(normed))
        return result
