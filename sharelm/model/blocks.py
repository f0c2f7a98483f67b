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

from sharelm.model.attention import FlexCausalAttention
from sharelm.model.caches import ExtendCache, KeysValues
from sharelm.model.depth_matrices import Weights
from sharelm.sharing import ModelShape, Sharing
from sharelm.sharing.shape import Kind

NORM_EPSILON = 1e-6
NormGains = dict[str, Tensor]


def rotary_table(shape: ModelShape, device: torch.device) -> Tensor:
    """Cosines and sines [2, context, head_width] of every position, in fp32 (RoFormer, arXiv 2104.09864).

    The sines of the first half are negative: `qk_norm_rotary` multiplies a head's swapped halves by them.
    """
    exponents = torch.arange(0, shape.head_width, 2, dtype=torch.float32, device=device) / shape.head_width
    positions = torch.arange(shape.context, dtype=torch.float32, device=device)
    angles = torch.outer(positions, shape.rope_theta**-exponents)
    sines = torch.cat((-angles.sin(), angles.sin()), dim=-1)
    return torch.stack((angles.cos().repeat(1, 2), sines))


class RotaryTable:
    """The rotary table of a shape, made on the device where it is first read.

    It is no buffer of a module: a buffer would be rounded to bf16 with the weights.
    """

    def __init__(self, shape: ModelShape) -> None:
        self._shape = shape
        self._table: Tensor | None = None

    def at(self, positions: Tensor) -> Tensor:
        """The rows of `positions` [B or 1, T], [2, B or 1, T, 1, head_width]."""
        if self._table is None or self._table.device != positions.device:
            with torch.inference_mode(False):  # training may use it later
                self._table = rotary_table(self._shape, positions.device)
        return self._table[:, positions][:, :, :, None]


def qk_norm_rotary(heads: Tensor, gain: Tensor, rotary: Tensor) -> Tensor:
    """RMSNorm of every query or key head of `heads` [B, T, H, D], then the rotary embedding of its position.

    `gain` is the norm's [D] and `rotary` the rotary table of the positions [2, B or 1, T, 1, D]. The rotation is
    computed before the division by the root mean square, which a rotation does not change. Neither half of a head then
    waits for the sum of squares, and a compiler makes one kernel of it all.
    """
    out: Tensor = _QkNormRotary.apply(heads, gain, rotary)  # type: ignore[no-untyped-call]
    return out


class _QkNormRotary(torch.autograd.Function):
    """`qk_norm_rotary` with gradients written by hand, which take a GPU a third less time than autograd's.

    The backward pass rotates the output's gradient back by the same angles and then differentiates the norm.
    """

    @staticmethod
    def forward(ctx: Any, heads: Tensor, gain: Tensor, rotary: Tensor) -> Tensor:
        exact = heads.float()
        inverse = torch.rsqrt(exact.square().mean(dim=-1, keepdim=True) + NORM_EPSILON)
        scaled = exact * gain.float()
        rotated = scaled * rotary[0] + scaled.roll(scaled.shape[-1] // 2, -1) * rotary[1]
        ctx.save_for_backward(heads, gain, rotary, inverse)
        return (rotated * inverse).to(heads.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        heads, gain, rotary, inverse = ctx.saved_tensors
        exact = gradient.float()
        unrotated = exact * rotary[0] - exact.roll(exact.shape[-1] // 2, -1) * rotary[1]
        normalised, scaled = heads.float() * inverse, unrotated * gain.float()
        heads_gradient = inverse * (scaled - normalised * (scaled * normalised).mean(dim=-1, keepdim=True))
        gain_gradient = (unrotated * normalised).sum(dim=(0, 1, 2))
        return heads_gradient.to(heads.dtype), gain_gradient.to(gain.dtype), None


class Linear(nn.Linear):
    """A matrix without bias that draws no weights by itself; `Decoder.initialise` or a file sets them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """Do nothing: drawing twice would cost a large model seconds at every load."""


class Block(nn.Module):
    """The parameters registered for one block: its norm gains and its matrices by name. Either may be empty.

    Tied matrices are not stored, and norm gains of each depth are stored in blocks of their own.
    """

    def __init__(self, norm_gains: dict[str, int], matrices: dict[str, tuple[int, int]]) -> None:
        super().__init__()
        self._norms = tuple(norm_gains)
        for name, width in norm_gains.items():
            setattr(self, name, nn.RMSNorm(width, eps=NORM_EPSILON))
        for name, (outputs, inputs) in matrices.items():
            setattr(self, name, Linear(inputs, outputs))

    def norm_gains(self) -> NormGains:
        """The norm gains registered here, by name."""
        return {name: getattr(self, name).weight for name in self._norms}


def stored_blocks(shape: ModelShape, sharing: Sharing, kind: Kind) -> nn.ModuleList:
    """The stored blocks of a kind, without tied matrices and without norm gains that each depth has for itself."""
    norm_gains = {} if sharing.norm_gains_per_depth(kind) else shape.norm_gains(kind)
    matrices = {name: size for name, size in shape.matrices(kind).items() if name not in sharing.tied(kind)}
    return nn.ModuleList(Block(norm_gains, matrices) for _ in range(sharing.blocks(kind)))


def depth_norm_gains(shape: ModelShape, sharing: Sharing, kind: Kind) -> nn.ModuleList:
    """The norm gains of every depth where depths have their own, else an empty list."""
    if not sharing.norm_gains_per_depth(kind):
        return nn.ModuleList()
    applied = [
        {name: width for name, width in shape.norm_gains(kind).items() if depth in sharing.depths(kind, name)}
        for depth in range(sharing.depth)
    ]
    return nn.ModuleList(Block(norm_gains, {}) for norm_gains in applied)


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """RMSNorm of `x` [..., width] (arXiv 1910.07467)."""
    return F.rms_norm(x, gain.shape, gain.to(x.dtype), NORM_EPSILON)


def attend(
    hidden: Tensor,
    norm_gains: NormGains,
    weights: Weights,
    rotary: Tensor,
    head_width: int,
    flex: FlexCausalAttention | None,
    extend: ExtendCache | None,
    keys_values: KeysValues,
) -> tuple[Tensor, KeysValues]:
    """What causal grouped-query attention adds to `hidden` [B, T, width], and the keys and values it attended to.

    Args:
        hidden: the input, before its norm.
        norm_gains: of the sub-layer's norms, by name.
        weights: of the sub-layer's matrices, by name.
        rotary: the rotary table of the positions [2, B or 1, T, 1, head_width].
        head_width: of a query's, key's and value's head.
        flex: attends within whole sequences; torch's `scaled_dot_product_attention` does where it is None.
        extend: stores new keys and values in a cache and returns all of them.
        keys_values: those of an earlier depth, used in place of computing new ones.
    """

    def heads(flat: Tensor) -> Tensor:
        return flat.view(*flat.shape[:2], -1, head_width)

    inside = rms_norm(hidden, norm_gains["norm"])
    query = qk_norm_rotary(heads(weights["query"](inside)), norm_gains["query_norm"], rotary).transpose(1, 2)
    if keys_values is None:
        key = qk_norm_rotary(heads(weights["key"](inside)), norm_gains["key_norm"], rotary).transpose(1, 2)
        value = heads(weights["value"](inside)).transpose(1, 2)
        keys_values = (key, value, None) if extend is None else extend(key, value)
    key, value, mask = keys_values
    if flex is not None:
        mixed = flex(query, key, value)
    else:
        is_causal = mask is None and query.shape[2] > 1
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=is_causal, enable_gqa=True)
    return weights["output"](mixed.transpose(1, 2).flatten(2)), keys_values


def feed_forward(hidden: Tensor, norm_gains: NormGains, weights: Weights) -> Tensor:
    """What the feed-forward sub-layer adds to `hidden` [B, T, width]."""
    inside = rms_norm(hidden, norm_gains["norm"])
    if "gate" in weights:
        return weights["down"](F.silu(weights["gate"](inside)) * weights["up"](inside))
    return weights["down"](F.gelu(weights["up"](inside)))
