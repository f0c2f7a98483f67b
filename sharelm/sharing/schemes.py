"""The published constructors. Each makes a `Sharing` from the depth N and its own numbers.

A new scheme is a new function of a few lines in `SCHEMES`; no other module knows a scheme by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

from sharelm.errors import InputError
from sharelm.sharing.degrees import Atoms, LowRank
from sharelm.sharing.shape import KINDS
from sharelm.sharing.value import Sharing


def _both(schedule: list[int]) -> Sharing:
    """One schedule for both kinds, its blocks renumbered in the order of their first use."""
    order: dict[int, int] = {}
    renumbered = tuple(order.setdefault(block, len(order)) for block in schedule)
    return Sharing(renumbered, renumbered)


def _check_blocks(depth: int, blocks: int) -> None:
    """Raise `InputError` for more blocks than depths, or none."""
    if not 1 <= blocks <= depth:
        raise InputError(f"blocks = {blocks} must lie between 1 and the depth, {depth}")


def independent(depth: int) -> Sharing:
    """Every depth its own block: no sharing."""
    return _both(list(range(depth)))


def albert(depth: int) -> Sharing:
    """One block at every depth (ALBERT, arXiv 1909.11942; Universal Transformer, 1807.03819)."""
    return _both([0] * depth)


def sequence(depth: int, blocks: int) -> Sharing:
    """Depth i reads block floor(i*M/N): neighbours repeat (2104.06022; MobileLLM, 2402.14905)."""
    _check_blocks(depth, blocks)
    return _both([i * blocks // depth for i in range(depth)])


def cycle(depth: int, blocks: int) -> Sharing:
    """Depth i reads block i mod M: the whole stack loops (2104.06022; Ouro, 2510.25741)."""
    _check_blocks(depth, blocks)
    return _both([i % blocks for i in range(depth)])


def cycle_reversed(depth: int, blocks: int) -> Sharing:
    """A cycle whose last M depths read the blocks backwards (CYCLE (REV), 2104.06022)."""
    _check_blocks(depth, blocks)
    head = [i % blocks for i in range(depth - blocks)]
    return _both(head + list(reversed(range(blocks))))


def _middle(depth: int, blocks: int, inner: Callable[[int, int], Sharing]) -> Sharing:
    """First and last depth with blocks of their own, and this scheme between them."""
    if blocks < 3 or depth < 3:
        raise InputError(f"blocks = {blocks} at depth {depth}: first, last and middle need at least 3 of each")
    _check_blocks(depth, blocks)
    middle = inner(depth - 2, blocks - 2).attention
    return _both([0, *(1 + block for block in middle), blocks - 1])


def middle_cycle(depth: int, blocks: int) -> Sharing:
    """First and last depth unique, a cycle of M-2 between (Mixture-of-Recursions, 2507.10524)."""
    return _middle(depth, blocks, cycle)


def middle_sequence(depth: int, blocks: int) -> Sharing:
    """First and last depth unique, a sequence of M-2 between (Mixture-of-Recursions, 2507.10524)."""
    return _middle(depth, blocks, sequence)


def sandwich(depth: int) -> Sharing:
    """First and last depth unique, one block for all between (Subformer, 2101.00234)."""
    return _middle(depth, 3, cycle)


def prelude_core_coda(depth: int, prelude: int, core: int, coda: int) -> Sharing:
    """Unique prelude, a core looped over the depths between, unique coda (Huginn, 2502.05171)."""
    if min(prelude, coda) < 0 or core < 1:
        raise InputError(f"prelude = {prelude}, core = {core}, coda = {coda}: core at least 1, the others at least 0")
    looped = depth - prelude - coda
    if looped < core or looped % core:
        raise InputError(
            f"core = {core} does not divide the {looped} depths left between prelude = {prelude} and coda = {coda}"
        )
    body = [prelude + i % core for i in range(looped)]
    return _both([*range(prelude), *body, *range(prelude + core, prelude + core + coda)])


def attention_only(depth: int, blocks: int = 1) -> Sharing:
    """Attention cycles over M blocks, feed-forward independent (ALBERT, 1909.11942, table 4)."""
    return Sharing(cycle(depth, blocks).attention, independent(depth).feed_forward)


def feed_forward_only(depth: int, blocks: int = 1) -> Sharing:
    """Feed-forward cycles over M blocks, attention independent (One Wide Feedforward, 2309.01826)."""
    return Sharing(independent(depth).attention, cycle(depth, blocks).feed_forward)


def relaxed(depth: int, blocks: int, rank: int) -> Sharing:
    """A cycle with low-rank deltas of each depth, started by truncated SVD (relaxed recursion, 2410.20672)."""
    deltas = LowRank(attention=rank, feed_forward=rank, start="svd")
    return replace(cycle(depth, blocks), low_rank=deltas if rank else LowRank())


def residual(depth: int, blocks: int, rank: int) -> Sharing:
    """A sequence with low-rank and diagonal deltas (ResidualTransformer, 2310.02489; DeltaLLM, 2501.18596)."""
    deltas = LowRank(attention=rank, feed_forward=rank)
    return replace(sequence(depth, blocks), low_rank=deltas, diagonal=KINDS)


def transpose(depth: int) -> Sharing:
    """Independent depths, each tied by transposes in both sub-layers (HaLViT, CVPR 2024 workshops; HaLLM)."""
    return replace(independent(depth), ties=KINDS)


def atoms(depth: int, blocks: int) -> Sharing:
    """Every matrix of every depth mixes M atoms; norm gains per depth (Basis Sharing, 2410.03765)."""
    return replace(cycle(depth, blocks), atoms=Atoms("learned", "learned"), norms="per_depth")


def masa(depth: int, blocks: int) -> Sharing:
    """Attention matrices mix M atoms, norm gains per depth, feed-forward independent (MASA, 2508.04581)."""
    return replace(attention_only(depth, blocks), atoms=Atoms(attention="learned"), norms="per_depth")


def huginn(depth: int, prelude: int, core: int, coda: int) -> Sharing:
    """A looped core whose every loop sees what entered the first, mixed in by a matrix (Huginn, 2502.05171)."""
    return replace(prelude_core_coda(depth, prelude, core, coda), injection="linear")


def late_loop(depth: int, first: int, last: int) -> Sharing:
    """A plain stack whose depths first..last run twice from half of training on (parameter-golf's leaders)."""
    stored = depth - (last - first + 1)
    if not 0 <= first <= last < stored:
        raise InputError(
            f"first = {first}, last = {last}: with {depth} depths, one looped part and every block stored once need "
            "0 <= first <= last < depth - (last - first + 1)"
        )
    return replace(_both([*range(last + 1), *range(first, stored)]), late=0.5)


SCHEMES: dict[str, Callable[..., Sharing]] = {
    constructor.__name__: constructor
    for constructor in (
        independent,
        albert,
        sequence,
        cycle,
        cycle_reversed,
        middle_cycle,
        middle_sequence,
        sandwich,
        prelude_core_coda,
        attention_only,
        feed_forward_only,
        relaxed,
        residual,
        transpose,
        atoms,
        masa,
        huginn,
        late_loop,
    )
}


def build_sharing(scheme: str, depth: int, **numbers: int) -> Sharing:
    """The `Sharing` that the named constructor makes for this depth.

    Raises `InputError` for an unknown scheme and for numbers it does not take, lacks or cannot use.
    """
    if scheme not in SCHEMES:
        raise InputError(f"scheme = {scheme!r} is not known; there are {', '.join(SCHEMES)}")
    takes = dict(inspect.signature(SCHEMES[scheme]).parameters)
    del takes["depth"]
    for name, value in numbers.items():
        if name not in takes:
            raise InputError(f"{name} = {value}: scheme {scheme!r} takes {', '.join(takes) or 'no numbers'}")
    for name, parameter in takes.items():
        if parameter.default is inspect.Parameter.empty and name not in numbers:
            raise InputError(f"scheme {scheme!r} needs {name}")
    return SCHEMES[scheme](depth, **numbers)
