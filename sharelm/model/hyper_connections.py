"""A residual stream of several parallel streams: static hyper-connections (arXiv 2409.19606)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Connections(NamedTuple):
    """How one sub-layer is connected to the streams."""

    read: Tensor  # [streams]
    mix: Tensor  # [streams, streams]
    write: Tensor  # [streams]


class HyperConnections(nn.Module):
    """The weights by which each sub-layer (place 0 attention, 1 feed-forward) of each depth reads, mixes and writes.

    The streams are the first dimension, so that reading and mixing them are matrix products that copy nothing. The
    connections belong to a depth, whatever block it reads: they can tell loops apart.
    """

    def __init__(self, depth: int, streams: int) -> None:
        super().__init__()
        self.read = nn.Parameter(torch.empty(depth, 2, streams))
        self.mix = nn.Parameter(torch.empty(depth, 2, streams, streams))
        self.write = nn.Parameter(torch.empty(depth, 2, streams))

    @torch.no_grad()
    def start_as_one_stream(self) -> None:
        """Set every weight so that the model computes what it would with one stream.

        Sub-layers read the streams in turn, nothing is mixed, and every stream is written alike.
        """
        streams = self.write.shape[-1]
        turns = torch.arange(self.read.numel() // streams) % streams
        self.read.copy_(torch.nn.functional.one_hot(turns, streams).view(self.read.shape))
        self.mix.copy_(torch.eye(streams).expand_as(self.mix))
        self.write.fill_(1)

    def spread(self, hidden: Tensor) -> Tensor:
        """The streams [streams, B, T, width] that enter the first depth, each a copy of `hidden` [B, T, width]."""
        return hidden.repeat(self.read.shape[-1], 1, 1, 1)

    def at(self, depth: int, place: int) -> Connections:
        """The connections of one sub-layer."""
        return Connections(self.read[depth, place], self.mix[depth, place], self.write[depth, place])


def join_streams(hidden: Tensor) -> Tensor:
    """What leaves the last depth [B, T, width], from the streams `hidden` [streams, B, T, width]."""
    return hidden.sum(dim=0)


def read_streams(hidden: Tensor, connections: Connections) -> Tensor:
    """The input [B, T, width] of a sub-layer, from the streams `hidden` [streams, B, T, width]."""
    return (connections.read.to(hidden.dtype)[None] @ hidden.flatten(1)).view(hidden.shape[1:])


def write_streams(hidden: Tensor, connections: Connections, change: Tensor) -> Tensor:
    """The streams [streams, B, T, width] after a sub-layer mixed them and added `change` [B, T, width]."""
    _, mix, write = (part.to(hidden.dtype) for part in connections)
    mixed = (mix.t() @ hidden.flatten(1)).view(hidden.shape)
    return mixed + change * write[:, None, None, None]
