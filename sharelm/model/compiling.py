"""The functions that a training pass consists of, as written or compiled by torch for a GPU."""

from __future__ import annotations

from typing import NamedTuple

import torch

from sharelm.digest import code_digest
from sharelm.model.blocks import qk_norm_rotary
from sharelm.model.depth import RunDepth, run_depth
from sharelm.model.loss import LossAndGradient, loss_and_gradient

COMPILED_SHAPES = 64  # torch would stop at 8 and refuse the next; a study's twins have many


class PassFunctions(NamedTuple):
    """What a training pass calls for every depth and for the loss, and whether attention is FlexAttention."""

    run_depth: RunDepth
    loss_and_gradient: LossAndGradient
    flex_attention: bool


AS_WRITTEN = PassFunctions(run_depth, loss_and_gradient, False)


def compiled_functions(backend: str, flex_attention: bool) -> PassFunctions:
    """The functions compiled by torch, once a shape: one depth's code serves all depths of one shape."""
    torch._dynamo.config.recompile_limit = COMPILED_SHAPES
    # torch 2.11 makes its gradients zero in fp32 when it traces into it
    torch.compiler.allow_in_graph(qk_norm_rotary)  # type: ignore[no-untyped-call]
    name, module = qk_norm_rotary.__name__, qk_norm_rotary.__module__
    # inductor's cache on disk takes graphs with an opaque function only where its code has a digest
    known = {f"{module}.{name}": code_digest(f"{module}:{name}")}
    torch._inductor.config.unsafe_marked_cacheable_functions = known
    return PassFunctions(
        torch.compile(run_depth, fullgraph=True, dynamic=False, backend=backend),
        torch.compile(loss_and_gradient, fullgraph=True, dynamic=False, backend=backend),
        flex_attention,
    )
