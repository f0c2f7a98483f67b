"""A residual stream of several lanes: static hyper-connections (arXiv 2409.19606)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Lanes(nn.Module):
    """How each sub-layer (place 0 attention, 1 feed-forward) of each depth reads, mixes and writes the lanes.

    The connections belong to a depth, whatever block it reads: they are what can tell loops apart.
    """

    def __init__(self, depth: int, lanes: int) -> None:
        super().__init__()
        self.read = nn.Parameter(torch.empty(depth, 2, lanes))
        self.mix = nn.Parameter(torch.empty(depth, 2, lanes, lanes))
        self.write = nn.Parameter(torch.empty(depth, 2, lanes))

    @torch.no_grad()
    def start(self) -> None:
        """As one stream: sub-layers read the lanes in turn, nothing is mixed, all lanes are written alike."""
        lanes = self.write.shape[-1]
        turns = torch.arange(self.read.numel() // lanes) % lanes
        self.read.copy_(torch.nn.functional.one_hot(turns, lanes).view(self.read.shape))
        self.mix.copy_(torch.eye(lanes).expand_as(self.mix))
        self.write.fill_(1)

    def enter(self, depth: int, place: int, hidden: Tensor) -> Tensor:
        """What the sub-layer reads [B, T, width] of `hidden` [B, T, lanes, width]."""
        return torch.einsum("btnd,n->btd", hidden, self.read[depth, place])

    def leave(self, depth: int, place: int, hidden: Tensor, change: Tensor) -> Tensor:
        """The lanes [B, T, lanes, width] after the sub-layer added `change` [B, T, width]."""
        mixed = torch.einsum("btnd,nm->btmd", hidden, self.mix[depth, place])
        return mixed + change[:, :, None] * self.write[depth, place][:, None]
