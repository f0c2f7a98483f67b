"""Causal attention of whole sequences while a GPU trains, by torch's FlexAttention (arXiv 2412.05496).

Of what torch has it is the quickest whose gradients have the same bits in every run. It needs to be compiled, so that
all else takes torch's usual attention.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from sharelm.sharing import ModelShape

SMALLEST_HEAD = 16  # of matrix instructions
CAUSAL: dict[str, int] = {
    "FORCE_USE_FLEX_ATTENTION": True,  # short sequences too: what torch has for these reads past them with our cuts
    "BLOCKS_ARE_CONTIGUOUS": True,
    "ROWS_GUARANTEED_SAFE": True,  # every query sees itself
}
HOPPER = {  # for heads of up to 64; on an H100 quicker than torch's own choice (docs/results/training)
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


class Causal(NamedTuple):
    """Which blocks of keys each block of queries looks at, and how the kernels are to be cut."""

    mask: BlockMask
    kernels: dict[str, int]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Grouped-query attention of `query` [B, heads, T, D] to `key` and `value` [B, kv heads, T, D]."""
        kernels: Any = self.kernels
        mixed = flex_attention(query, key, value, block_mask=self.mask, enable_gqa=True, kernel_options=kernels)
        assert isinstance(mixed, Tensor)
        return mixed


def is_for(shape: ModelShape, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether FlexAttention serves this model there: on matrix instructions for bf16, which begin with Ampere."""
    return (
        device.type == "cuda"
        and torch.version.hip is None  # its capabilities are other machines'
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and dtype == torch.bfloat16
        and shape.head_width >= SMALLEST_HEAD
    )


@cache  # one mask for all models of a process, so that they share compiled code
def causal(length: int, head_width: int, device: torch.device) -> Causal:
    """Causal attention within sequences of this length."""
    mask = create_block_mask(_earlier, None, None, length, length, device=device)
    hopper = torch.cuda.get_device_capability(device) == (9, 0) and head_width <= 64
    return Causal(mask, CAUSAL | HOPPER if hopper else CAUSAL)


def _earlier(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query >= key
