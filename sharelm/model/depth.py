"""One depth as a function of tensors alone, so that one compilation serves every depth of every model of a shape."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sharelm.model.attention import FlexCausalAttention
from sharelm.model.blocks import NormGains, attend, feed_forward
from sharelm.model.caches import ExtendCache, KeysValues
from sharelm.model.depth_matrices import Weights
from sharelm.model.hyper_connections import Connections, read_streams, write_streams

RunDepth = Callable[..., tuple[Tensor, KeysValues]]  # `run_depth`, as written or compiled


class SubLayer(NamedTuple):
    """What one sub-layer of one depth reads."""

    norm_gains: NormGains
    weights: Weights
    connections: Connections | None  # to the streams, where there are several
    keep_scale: Tensor | None  # [B, 1, 1]: 0 where stochastic depth drops it, else 1 / (rate of being kept)


def run_depth(
    hidden: Tensor,
    attention: SubLayer,
    feedforward: SubLayer,
    rotary: Tensor,
    head_width: int,
    dropout: float = 0.0,
    keys_values: KeysValues = None,
    return_keys_values: bool = False,
    flex: FlexCausalAttention | None = None,
    extend: ExtendCache | None = None,
) -> tuple[Tensor, KeysValues]:
    """`hidden` [B, T, width], or [streams, B, T, width], after both sub-layers; and the keys and values attended to.

    Arguments are those of `attend`. Keys and values are returned only where `return_keys_values` asks for them: a
    result that nothing reads would cost the backward pass two gradients of zeros.
    """
    inside = _read(hidden, attention)
    change, keys_values = attend(
        inside, attention.norm_gains, attention.weights, rotary, head_width, flex, extend, keys_values
    )
    hidden = _write(hidden, attention, change, dropout)
    change = feed_forward(_read(hidden, feedforward), feedforward.norm_gains, feedforward.weights)
    return _write(hidden, feedforward, change, dropout), keys_values if return_keys_values else None


def recomputed(run: RunDepth, draws: bool) -> RunDepth:
    """`run`, of which only the arguments are kept for the backward pass, which runs it again.

    `draws` says whether it draws masks: the second run then draws the same ones.
    """
    # re-entrant checkpointing crashes DeepSpeed when one block is used several times
    return partial(checkpoint, run, use_reentrant=False, preserve_rng_state=draws)


def _read(hidden: Tensor, part: SubLayer) -> Tensor:
    """The input of a sub-layer: the residual stream, or what it reads of several."""
    return hidden if part.connections is None else read_streams(hidden, part.connections)


def _write(hidden: Tensor, part: SubLayer, change: Tensor, dropout: float) -> Tensor:
    """The residual stream, or several, after a sub-layer added `change`, of which a part may be dropped."""
    if dropout:
        change = F.dropout(change, dropout)
    if part.keep_scale is not None:
        change = change * part.keep_scale
    return hidden + change if part.connections is None else write_streams(hidden, part.connections, change)
