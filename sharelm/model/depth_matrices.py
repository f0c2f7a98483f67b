"""The one place where the matrix of (kind, depth, name) is made from what is stored.

A matrix is a stored one, the transpose of a stored one, or a sum of atoms. Low-rank and diagonal deltas are added to it
in one of two forms. *Merged* deltas are added to the matrix, of all depths at once, for passes over many tokens.
Deltas *apart* are applied to the activations, so that decoding holds no copy of a shared matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharelm.sharing import ModelShape, Sharing
from sharelm.sharing.shape import Kind

Draw = Callable[[str, tuple[int, ...]], Tensor]


class Weight(NamedTuple):
    """A matrix of one depth: y = W x + scale x B A x + d * x, the last two where there are deltas apart.

    It is applied in the precision of x, whatever it is stored in.
    """

    matrix: Tensor  # [outputs, inputs]
    low_rank: tuple[Tensor, Tensor] | None = None  # B [outputs, rank], A [rank, inputs]
    scale: float = 1.0
    diagonal: Tensor | None = None  # [min(outputs, inputs)]

    def __call__(self, x: Tensor) -> Tensor:
        """[..., outputs] of `x` [..., inputs]."""
        y = F.linear(x, self.matrix.to(x.dtype))
        if self.low_rank is not None:
            outer, inner = (factor.to(x.dtype) for factor in self.low_rank)
            y = y + self.scale * F.linear(F.linear(x, inner), outer)
        if self.diagonal is not None:
            size = len(self.diagonal)
            y = y + F.pad(x[..., :size] * self.diagonal.to(x.dtype), (0, y.shape[-1] - size))
        return y


Weights = dict[str, Weight]


class DepthMatrices(nn.Module):
    """Makes the matrices of every depth for one sub-layer kind.

    It registers the deltas and coefficients that depths store for themselves, stacked over those depths.
    """

    def __init__(self, shape: ModelShape, sharing: Sharing, kind: Kind) -> None:
        super().__init__()
        self.sizes, self.sharing, self.kind = shape.matrices(kind), sharing, kind
        self.scale = getattr(sharing.low_rank, f"{kind}_scale")
        self.mixes = sharing.coefficients(kind) != "none"
        self.outer, self.inner = nn.ParameterDict(), nn.ParameterDict()  # B and A of low-rank deltas
        self.diagonal, self.coefficients = nn.ParameterDict(), nn.ParameterDict()
        for name, size in self.sizes.items():
            deltas, rank = len(sharing.delta_depths(kind, name)), min(sharing.rank(kind), *size)
            if rank:
                self.outer[name] = nn.Parameter(torch.empty(deltas, size[0], rank))
                self.inner[name] = nn.Parameter(torch.empty(deltas, rank, size[1]))
            if kind in sharing.diagonal:
                self.diagonal[name] = nn.Parameter(torch.empty(deltas, min(size)))
            if sharing.coefficients(kind) == "learned":
                self.coefficients[name] = nn.Parameter(torch.empty_like(self._schedule(name)))

    def _schedule(self, name: str) -> Tensor:
        """One-hot coefficients [depths, blocks] that make a mixture the block of the schedule."""
        read = [self.sharing.schedule(self.kind)[depth] for depth in self.sharing.depths(self.kind, name)]
        return F.one_hot(torch.tensor(read), self.sharing.blocks(self.kind)).float()

    @torch.no_grad()
    def start(self, blocks: nn.ModuleList, draw: Draw, pool: Executor) -> None:
        """Set the deltas and coefficients to their first values; the blocks must have theirs.

        `draw` returns the first values that a parameter of this name and size has in the independent model. `pool` runs
        the decompositions.
        """
        for diagonal in self.diagonal.values():
            diagonal.zero_()
        for name, coefficients in self.coefficients.items():
            coefficients.copy_(self._schedule(name))
        for name, outer in self.outer.items():
            inner = self.inner[name]
            if self.sharing.low_rank.start == "zero":
                outer.zero_()
                continue
            bases = self._bases([matrix.float().cpu() for matrix in self._stored(blocks, name)], name)

            def factors(depth: int, name: str = name, bases: dict[int, Tensor] = bases) -> tuple[Tensor, Tensor]:
                own = draw(f"{self.kind}_blocks.{depth}.{name}.weight", self.sizes[name])
                return truncated_svd((own - bases[depth]) / self.scale, self.outer[name].shape[2])

            for i, found in enumerate(pool.map(factors, self.sharing.delta_depths(self.kind, name))):
                for factor, values in zip((outer, inner), found, strict=True):
                    factor[i].copy_(values)

    def _stored(self, blocks: nn.ModuleList, name: str) -> list[Tensor]:
        """This matrix of every stored block: its own, or another's transpose."""
        tied = self.sharing.tied(self.kind)
        if name in tied:
            return [getattr(block, tied[name]).weight.t() for block in blocks]
        return [getattr(block, name).weight for block in blocks]

    def _bases(self, stored: list[Tensor], name: str) -> dict[int, Tensor]:
        """This matrix at every depth that applies it, before deltas, from that of every stored block."""
        depths = self.sharing.depths(self.kind, name)
        if not self.mixes:
            return {depth: stored[self.sharing.schedule(self.kind)[depth]] for depth in depths}
        atoms = torch.stack(stored)
        learned = self.coefficients[name] if name in self.coefficients else self._schedule(name)
        mixed = (learned.to(atoms) @ atoms.flatten(1)).unflatten(1, self.sizes[name])
        return dict(zip(depths, mixed.unbind(), strict=True))

    def weights(self, blocks: nn.ModuleList, merged: bool) -> list[Weights]:
        """The matrices of every depth by name; `merged` makes one tensor of each and its deltas."""
        table: list[Weights] = [{} for _ in range(self.sharing.depth)]
        for name in self.sizes:
            bases = self._bases(self._stored(blocks, name), name)
            made = {depth: Weight(base) for depth, base in bases.items()}
            deltas = self.sharing.delta_depths(self.kind, name)
            if deltas and (name in self.outer or name in self.diagonal):
                made |= (self._merged if merged else self._apart)(name, deltas, bases)
            for depth, weight in made.items():
                table[depth][name] = weight
        return table

    def _merged(self, name: str, deltas: list[int], bases: dict[int, Tensor]) -> dict[int, Weight]:
        """The matrices of the depths with deltas, the deltas added to them."""
        whole = torch.stack([bases[depth] for depth in deltas])
        if name in self.outer:
            whole = torch.baddbmm(whole, self.outer[name], self.inner[name], alpha=self.scale)
        if name in self.diagonal:
            main = whole.diagonal(dim1=1, dim2=2) + self.diagonal[name]
            whole = torch.diagonal_scatter(whole, main, dim1=1, dim2=2)
        return {depth: Weight(matrix) for depth, matrix in zip(deltas, whole.unbind(), strict=True)}

    def _apart(self, name: str, deltas: list[int], bases: dict[int, Tensor]) -> dict[int, Weight]:
        """The matrices of the depths with deltas, the deltas beside them."""
        return {
            depth: Weight(
                bases[depth],
                (self.outer[name][i], self.inner[name][i]) if name in self.outer else None,
                self.scale,
                self.diagonal[name][i] if name in self.diagonal else None,
            )
            for i, depth in enumerate(deltas)
        }


@torch.no_grad()  # a thread of a pool has its own mode
def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """B [outputs, rank] and A [rank, inputs] whose product is nearest to `matrix` (Eckart-Young).

    They come from the eigenvectors of the smaller Gram matrix, many times quicker than from an SVD of the whole. Small
    singular values lose digits; their share of the product does not.
    """
    if matrix.shape[0] < matrix.shape[1]:
        inner, outer = truncated_svd(matrix.t(), rank)
        return outer.t(), inner.t()
    exact = matrix.double()
    squares, right = torch.linalg.eigh(exact.t() @ exact)  # ascending
    right = right[:, -rank:].flip(1)
    values = squares[-rank:].flip(0).clamp(min=0).sqrt()
    root = values.sqrt()
    inverse = torch.where(values > 1e-12 * values[0], 1 / root, 0.0)
    return (exact @ right * inverse).to(matrix.dtype), (root[:, None] * right.t()).to(matrix.dtype)
