"""Key-value caches. Every depth has its own, as a looped block has other inputs in every loop, unless loops share one.

Rows may hold different numbers of tokens. A batch of uneven prompts is padded on the right. Causal attention never
reads the padding, `keep` forgets it, and the next tokens are written over it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sharelm.model.depth_matrices import Weights
from sharelm.sharing import ModelShape
from sharelm.sharing.shape import Kind

KeysValues = tuple[Tensor, Tensor, Tensor | None] | None  # keys, values and their mask; None: not computed yet
ExtendCache = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor | None]]


class Caches:
    """Preallocated keys and values [slots, B, kv_heads, capacity, head_width] of a batch of rows.

    `slots` has the slot that each depth uses.
    """

    def __init__(
        self,
        shape: ModelShape,
        slots: tuple[int, ...],
        batch: int,
        capacity: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.slots = slots
        self.weights: dict[Kind, list[Weights]] | None = None  # made by the model in its first pass with these caches
        size = (max(slots) + 1, batch, shape.kv_heads, capacity, shape.head_width)
        self.keys = torch.zeros(size, device=device, dtype=dtype)
        self.values = torch.zeros(size, device=device, dtype=dtype)
        self.device = self.keys.device
        self.lengths = [0] * batch
        self._new = 0
        self._positions = torch.empty(0)
        self._mask: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Bytes that the caches hold on their device."""
        return self.keys.nbytes + self.values.nbytes

    def begin(self, new: int) -> Tensor:
        """Make room for `new` tokens in every row; returns their positions [B or 1, new]."""
        self._new = new
        even = len(set(self.lengths)) == 1
        first = self.lengths[0]
        if even:  # the common case, and the one that is measured: nothing is copied from the host
            self._positions = torch.arange(first, first + new, device=self.device)[None]
        else:
            lengths = torch.tensor(self.lengths, device=self.device)
            self._positions = lengths[:, None] + torch.arange(new, device=self.device)
        self._mask = None
        if not even or (new > 1 and first > 0):
            visible = torch.arange(max(self.lengths) + new, device=self.device)
            self._mask = (visible <= self._positions[..., None])[:, None]
        return self._positions

    def end(self) -> None:
        """Count the new tokens, which every depth has stored."""
        self.lengths = [length + self._new for length in self.lengths]

    def keep(self, lengths: list[int]) -> None:
        """Forget, in each row, everything after its first `lengths` tokens."""
        self.lengths = list(lengths)

    def select(self, rows: list[int]) -> None:
        """Hold these rows in place of all; one that is named several times is copied."""
        chosen = torch.tensor(rows, device=self.device)
        self.keys, self.values = self.keys[:, chosen], self.values[:, chosen]
        self.lengths = [self.lengths[row] for row in rows]

    def at(self, depth: int) -> ExtendCache:
        """The function by which one depth stores its new keys and values and gets all of them."""
        return partial(self._extend, self.slots[depth])

    def _extend(self, slot: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store new keys and values [B, kv_heads, T, head_width]; returns all of them, and a mask where needed."""
        keys, values = self.keys[slot], self.values[slot]
        used = max(self.lengths) + self._new
        if len(self._positions) == 1:
            keys[:, :, self.lengths[0] : used] = key
            values[:, :, self.lengths[0] : used] = value
        else:
            rows = torch.arange(len(self.lengths), device=self.device)[:, None]
            keys[rows, :, self._positions] = key.transpose(1, 2)
            values[rows, :, self._positions] = value.transpose(1, 2)
        return keys[:, :, :used], values[:, :, :used], self._mask
