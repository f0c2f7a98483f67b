"""A residual stream of several lanes: static hyper-connections (arXiv 2409.19606)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Connections(NamedTuple):
    """How one sub-layer is connected to the lanes."""

    read: Tensor  # [lanes]
    mix: Tensor  # [lanes, lanes]
    write: Tensor  # [lanes]


class Lanes(nn.Module):
    """How each sub-layer (place 0 attention, 1 feed-forward) of each depth reads, mixes and writes the lanes.

    Lanes come first, so that reading and mixing them are matrix products that copy nothing. The connections belong to
    a depth, whatever block it reads: they are what can tell loops apart.
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

    def at(self, depth: int, place: int) -> Connections:
        """The connections of one sub-layer."""
        return Connections(self.read[depth, place], self.mix[depth, place], self.write[depth, place])


def enter(hidden: Tensor, connections: Connections) -> Tensor:
    """What the sub-layer reads [B, T, width] of `hidden` [lanes, B, T, width]."""
    return (connections.read.to(hidden.dtype)[None] @ hidden.flatten(1)).view(hidden.shape[1:])


def leave(hidden: Tensor, connections: Connections, change: Tensor) -> Tensor:
    """The lanes [lanes, B, T, width] after the sub-layer added `change` [B, T, width]."""
    _, mix, write = (part.to(hidden.dtype) for part in connections)
    mixed = (mix.t() @ hidden.flatten(1)).view(hidden.shape)
    return mixed + change * write[:, None, None, None]
