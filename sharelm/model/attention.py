"""Causal attention of whole sequences while a GPU trains, by torch's FlexAttention (arXiv 2412.05496).

It is the quickest attention of torch's whose gradients have the same bits in every run. It has to be compiled, so that
evaluation, decoding and CPUs use torch's `scaled_dot_product_attention`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from sharelm.sharing import ModelShape

SMALLEST_HEAD_WIDTH = 16  # of matrix instructions
KERNEL_OPTIONS: dict[str, int] = {
    "FORCE_USE_FLEX_ATTENTION": True,  # torch's kernel for short sequences reads out of bounds with HOPPER_BLOCKS
    "BLOCKS_ARE_CONTIGUOUS": True,
    "ROWS_GUARANTEED_SAFE": True,  # every query sees itself
}
HOPPER_BLOCKS = {  # for heads of up to 64; on an H100 quicker than torch's own choice (docs/results/training)
    "fwd_BLOCK_M": 64,
    "fwd_BLOCK_N": 64,
    "fwd_num_warps": 4,
    "fwd_num_stages": 3,
    "bwd_BLOCK_M1": 32,
    "bwd_BLOCK_N1": 64,
    "bwd_BLOCK_M2": 64,
    "bwd_BLOCK_N2": 64,
    "bwd_num_warps": 4,
    "bwd_num_stages": 3,
}


class FlexCausalAttention(NamedTuple):
    """Causal attention with a block mask and the options of its kernels."""

    mask: BlockMask
    kernel_options: dict[str, int]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Grouped-query attention of `query` [B, heads, T, D] to `key` and `value` [B, kv heads, T, D]."""
        options: Any = self.kernel_options
        mixed = flex_attention(query, key, value, block_mask=self.mask, enable_gqa=True, kernel_options=options)
        assert isinstance(mixed, Tensor)
        return mixed


def is_supported(shape: ModelShape, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether FlexAttention serves this model there: bf16 on an NVIDIA GPU from Ampere on."""
    return (
        device.type == "cuda"
        and torch.version.hip is None  # AMD's capabilities count otherwise
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and dtype == torch.bfloat16
        and shape.head_width >= SMALLEST_HEAD_WIDTH
    )


@cache  # one mask for all models of a process, so that they share compiled code
def flex_causal_attention(length: int, head_width: int, device: torch.device) -> FlexCausalAttention:
    """Causal attention within sequences of this length."""
    mask = create_block_mask(_is_visible, None, None, length, length, device=device)
    on_hopper = torch.cuda.get_device_capability(device) == (9, 0) and head_width <= 64
    return FlexCausalAttention(mask, KERNEL_OPTIONS | HOPPER_BLOCKS if on_hopper else KERNEL_OPTIONS)


def _is_visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Whether the query at this position sees the key at that position."""
    return query >= key
