"""Schedules and the published constructors that make them.

A constructor is a function from the depth N (and its own integers) to a `Sharing`. A new scheme is a new
function of a few lines in `SCHEMES`; no other module knows a scheme by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from sharelm.errors import InputError

Schedule = tuple[int, ...]


@dataclass(frozen=True)
class Sharing:
    """The stored block that each depth reads, for attention and for feed-forward.

    Both schedules have one entry a depth. Stored blocks are numbered 0..M-1 and every one is read at least
    once, so that `max + 1` is the number stored.
    """

    attention: Schedule
    feed_forward: Schedule

    def __post_init__(self) -> None:
        if len(self.attention) != len(self.feed_forward):
            raise InputError(
                f"attention has {len(self.attention)} depths and feed_forward {len(self.feed_forward)}; "
                "both schedules need one entry a depth"
            )
        for kind, schedule in (("attention", self.attention), ("feed_forward", self.feed_forward)):
            check_schedule(kind, schedule)

    @property
    def depth(self) -> int:
        """Number of depths N: how many attention (and feed-forward) applications a token passes."""
        return len(self.attention)

    @property
    def attention_blocks(self) -> int:
        """Number of stored attention blocks."""
        return max(self.attention) + 1

    @property
    def feed_forward_blocks(self) -> int:
        """Number of stored feed-forward blocks."""
        return max(self.feed_forward) + 1

    @property
    def is_independent(self) -> bool:
        """True when no stored block is read twice."""
        return self.attention_blocks == self.feed_forward_blocks == self.depth


def check_schedule(kind: str, schedule: Schedule, stored: int | None = None) -> None:
    """Refuse a schedule that is empty, reads a block that is not stored, or leaves one unread."""
    if not schedule:
        raise InputError(f"{kind} is empty; a schedule needs one block index a depth")
    stored = max(schedule) + 1 if stored is None else stored
    for depth, block in enumerate(schedule):
        if not 0 <= block < stored:
            raise InputError(
                f"{kind}[{depth}] = {block} names a block that is not stored; {stored} are (0 to {stored - 1})"
            )
    unread = sorted(set(range(stored)) - set(schedule))
    if unread:
        raise InputError(f"{kind} never reads stored block {unread[0]}; schedules must name every stored block")


def _both(schedule: list[int]) -> Sharing:
    """One schedule for both kinds, its blocks renumbered in the order of their first use."""
    order: dict[int, int] = {}
    renumbered = tuple(order.setdefault(block, len(order)) for block in schedule)
    return Sharing(renumbered, renumbered)


def _divided(depth: int, blocks: int) -> None:
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
    _divided(depth, blocks)
    return _both([i * blocks // depth for i in range(depth)])


def cycle(depth: int, blocks: int) -> Sharing:
    """Depth i reads block i mod M: the whole stack loops (2104.06022; Ouro, 2510.25741)."""
    _divided(depth, blocks)
    return _both([i % blocks for i in range(depth)])


def cycle_reversed(depth: int, blocks: int) -> Sharing:
    """A cycle whose last M depths read the blocks backwards (CYCLE (REV), 2104.06022)."""
    _divided(depth, blocks)
    head = [i % blocks for i in range(depth - blocks)]
    return _both(head + list(reversed(range(blocks))))


def _middle(depth: int, blocks: int, inner: Callable[[int, int], Sharing]) -> Sharing:
    if blocks < 3 or depth < 3:
        raise InputError(f"blocks = {blocks} at depth {depth}: first, last and middle need at least 3 of each")
    _divided(depth, blocks)
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
