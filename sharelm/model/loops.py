"""What the later loops over the same blocks take from the first: its input, and its keys and values."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from sharelm.model.caches import KeysValues


class FirstLoop:
    """What one pass over the depths keeps of the first loop.

    Args:
        starts: the depths at which a loop starts, none where nothing is injected.
        injection: [width, 2 x width], makes the input of a later loop of what leaves the loop before and the input of
            the first one; None adds the two.
        schedule: the attention block that each depth reads.
        reuses: whether later depths of a block attend to the keys and values of its first.
    """

    def __init__(
        self, starts: Collection[int], injection: Tensor | None, schedule: tuple[int, ...], reuses: bool
    ) -> None:
        self._starts, self._injection, self._schedule, self._reuses = starts, injection, schedule, reuses
        self._input: Tensor | None = None
        self._keys_values: dict[int, KeysValues] = {}  # by attention block

    def enter(self, depth: int, hidden: Tensor) -> Tensor:
        """What enters a depth that `hidden` [..., width] reaches."""
        if depth not in self._starts:
            return hidden
        if self._input is None:
            self._input = hidden
            return hidden
        if self._injection is None:
            return hidden + self._input
        return F.linear(torch.cat((hidden, self._input), dim=-1), self._injection.to(hidden.dtype))

    def keys_values(self, depth: int) -> KeysValues:
        """What the depth attends to in place of keys and values of its own; None where it computes them."""
        return self._keys_values.get(self._schedule[depth])

    def keep(self, depth: int, keys_values: KeysValues) -> None:
        """Keep what a depth attended to, where later depths of its block reuse it."""
        if self._reuses:
            self._keys_values[self._schedule[depth]] = keys_values
