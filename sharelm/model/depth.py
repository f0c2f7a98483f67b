"""One depth, as a function of tensors alone: compiled once, it serves every depth of every model of that shape."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from sharelm.model.attention import Causal
from sharelm.model.blocks import Gains, attend, feed_forward
from sharelm.model.caches import Extend, Seen
from sharelm.model.lanes import Connections, enter, leave
from sharelm.model.recipes import Weights


class SubLayer(NamedTuple):
    """What one sub-layer of one depth reads."""

    gains: Gains
    weights: Weights
    connections: Connections | None  # to the lanes, where there are several
    kept: Tensor | None  # [B, 1, 1]: 0 where stochastic depth drops it, else 1 / (rate of being kept)


def run_depth(
    hidden: Tensor,
    attention: SubLayer,
    feedforward: SubLayer,
    rotary: Tensor,
    head_width: int,
    dropout: float = 0.0,
    seen: Seen = None,
    reused: bool = False,
    causal: Causal | None = None,
    extend: Extend | None = None,
) -> tuple[Tensor, Seen]:
    """`hidden` [B, T, width], or [lanes, B, T, width], after both sub-layers; and the keys and values looked at.

    The latter only where they are `reused`: as a result they would cost the backward pass two gradients of zeros.
    """
    entered = _enter(hidden, attention)
    change, seen = attend(entered, attention.gains, attention.weights, rotary, head_width, causal, extend, seen)
    hidden = _leave(hidden, attention, change, dropout)
    change = feed_forward(_enter(hidden, feedforward), feedforward.gains, feedforward.weights)
    return _leave(hidden, feedforward, change, dropout), seen if reused else None


def _enter(hidden: Tensor, part: SubLayer) -> Tensor:
    return hidden if part.connections is None else enter(hidden, part.connections)


def _leave(hidden: Tensor, part: SubLayer, change: Tensor, dropout: float) -> Tensor:
    if dropout:
        change = F.dropout(change, dropout)
    if part.kept is not None:
        change = change * part.kept
    return hidden + change if part.connections is None else leave(hidden, part.connections, change)
