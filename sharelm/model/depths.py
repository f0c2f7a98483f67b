"""A pass over the depths: which of them run, and what each reads."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import NamedTuple

import torch
from torch import Tensor

from sharelm.model.attention import FlexCausalAttention
from sharelm.model.caches import Caches
from sharelm.model.depth import RunDepth, SubLayer
from sharelm.model.depth_matrices import Draw, Weights
from sharelm.model.hyper_connections import HyperConnections, join_streams
from sharelm.model.loops import FirstLoop
from sharelm.model.sub_layers import SubLayers
from sharelm.sharing import KINDS, ModelShape, Sharing
from sharelm.sharing.shape import Kind


class Pass(NamedTuple):
    """What one pass runs with."""

    run_depth: RunDepth
    weights: dict[Kind, list[Weights]]  # of every depth, by name
    rotary: Tensor  # the rotary table of the positions [2, B or 1, T, 1, head_width]
    depth_embedding: Tensor | None  # [depth, width]
    injection: Tensor | None  # [width, 2 x width]
    dropout: float  # rates; 0 outside training
    stochastic_depth: float
    flex: FlexCausalAttention | None
    caches: Caches | None
    looping: bool  # whether a late loop has switched on


class Depths:
    """The depths of a model in order.

    It is no module: the model registers the parameters that are read here. `streams` is None where there is one.
    """

    def __init__(
        self, shape: ModelShape, sharing: Sharing, sub_layers: dict[Kind, SubLayers], streams: HyperConnections | None
    ) -> None:
        self.sub_layers = sub_layers
        self._streams = streams
        self._head_width = shape.head_width
        self._number = sharing.depth
        self._plain = sharing.plain_depths
        self._loop_starts = frozenset(sharing.loop_starts if sharing.injection != "none" else ())
        self._schedule = sharing.schedule("attention")
        self._reuses = sharing.kv == "first"

    def start(self, draw: Draw, pool: Executor) -> None:
        """Set deltas and coefficients to their first values, as `DepthMatrices.start` says."""
        for kind in KINDS:
            self.sub_layers[kind].start(draw, pool)

    def weights(self, merged: bool) -> dict[Kind, list[Weights]]:
        """The matrices of every depth by kind and name; `merged` makes one tensor of each and its deltas."""
        return {kind: self.sub_layers[kind].weights(merged) for kind in KINDS}

    def run(self, hidden: Tensor, given: Pass) -> Tensor:
        """`hidden` [B, T, width] after every depth."""
        rows = len(hidden)
        if not given.looping and torch.is_grad_enabled():
            hidden = hidden + self._zero_from_unused(hidden, given.injection)
        if self._streams is not None:
            hidden = self._streams.spread(hidden)
        first = FirstLoop(self._loop_starts, given.injection, self._schedule, self._reuses)
        for depth in range(self._number) if given.looping else self._plain:
            hidden = first.enter(depth, hidden)
            if given.depth_embedding is not None:
                hidden = hidden + given.depth_embedding[depth].to(hidden.dtype)
            attention, feed_forward = (self._sub_layer(kind, depth, given, hidden, rows) for kind in KINDS)
            hidden, keys_values = given.run_depth(
                hidden,
                attention,
                feed_forward,
                given.rotary,
                self._head_width,
                given.dropout,
                first.keys_values(depth),
                self._reuses,
                given.flex,
                None if given.caches is None else given.caches.at(depth),
            )
            first.keep(depth, keys_values)
        return hidden if self._streams is None else join_streams(hidden)

    def _sub_layer(self, kind: Kind, depth: int, given: Pass, hidden: Tensor, rows: int) -> SubLayer:
        """What the sub-layer of this kind reads at this depth."""
        norm_gains, weights = self.sub_layers[kind].norm_gains(depth), given.weights[kind][depth]
        connections = None if self._streams is None else self._streams.at(depth, KINDS.index(kind))
        scale = self.keep_scale(given.stochastic_depth, depth, rows, hidden) if given.stochastic_depth else None
        return SubLayer(norm_gains, weights, connections, scale)

    def keep_scale(self, rate: float, depth: int, rows: int, like: Tensor) -> Tensor:
        """Stochastic depth's mask of each row at this depth, over the rate of being kept, [rows, 1, 1].

        `rate` is the last depth's, and the mask is on the device and in the precision of `like`.
        """
        kept = 1 - rate * (depth + 1) / self._number
        return torch.empty(rows, 1, 1, device=like.device, dtype=like.dtype).bernoulli_(kept) / kept

    def _zero_from_unused(self, like: Tensor, injection: Tensor | None) -> Tensor:
        """Zero, computed from the parameters that no depth reads before a late loop switches on.

        They get gradients of zero so that every optimizer treats them alike: optimizers differ in what they do to a
        parameter without a gradient.
        """
        unused = [] if injection is None else [injection]
        for kind in KINDS:
            unused += self.sub_layers[kind].unread(self._plain)
        return sum((0 * parameter.sum() for parameter in unused), torch.zeros((), device=like.device)).to(like.dtype)
