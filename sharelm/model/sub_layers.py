"""Everything that is stored for one kind of sub-layer, read depth by depth."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Executor

from torch import nn

from sharelm.model.blocks import Block, NormGains
from sharelm.model.depth_matrices import DepthMatrices, Draw, Weights


class SubLayers:
    """One kind's blocks, what makes its matrices of them, and norm gains that depths have for themselves (or none).

    It is no module: the model registers the three under names of its own.
    """

    def __init__(self, blocks: nn.ModuleList, recipes: DepthMatrices, gains: nn.ModuleList) -> None:
        self._schedule = recipes.sharing.schedule(recipes.kind)
        self._blocks, self._recipes, self._gains = blocks, recipes, gains

    def start(self, draw: Draw, pool: Executor) -> None:
        """Set deltas and coefficients to their first values, as `DepthMatrices.start` says."""
        self._recipes.start(self._blocks, draw, pool)

    def weights(self, merged: bool) -> list[Weights]:
        """The matrices of every depth by name; `merged` makes one tensor of each and its deltas."""
        return self._recipes.weights(self._blocks, merged)

    def norm_gains(self, depth: int) -> NormGains:
        """The norm gains that a depth reads, by name."""
        block = self._gains[depth] if self._gains else self._blocks[self._schedule[depth]]
        assert isinstance(block, Block)
        return block.norm_gains()

    def unread(self, depths: Collection[int]) -> list[nn.Parameter]:
        """The norm gains that belong to none of these depths."""
        others = set(range(len(self._gains))) - set(depths)
        return [gain for depth in others for gain in self._gains[depth].parameters()]
