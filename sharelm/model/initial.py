"""Initial values of weights, from a seed and a name alone: the same bits however many cores draw them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

DEVIATION = 0.02
PIECE = 2**22  # values that one generator draws, so that several cores share a large matrix


@dataclass(frozen=True)
class InitialWeights:
    """The initial weights of a model of this depth, drawn on the CPU in fp32 from a seed and their names.

    Gains and other vectors are ones. Matrices are N(0, 0.02); those that write to the residual stream are divided by
    sqrt(2 x depth), and expansions of an embedding keep its length.
    """

    seed: int
    depth: int

    def deviation(self, name: str, size: tuple[int, ...]) -> float:
        """The standard deviation of a matrix."""
        if name.endswith("expansion"):
            return float(size[1] ** -0.5)  # a vector is as long as the embedding it is made of
        writes = name.endswith(("output.weight", "down.weight"))
        return DEVIATION / (2 * self.depth) ** 0.5 if writes else DEVIATION

    def draw(self, name: str, size: tuple[int, ...]) -> Tensor:
        """The initial values of the matrix of this name."""
        return draw(self.seed, name, size, self.deviation(name, size))

    def fill(self, parameters: Iterable[tuple[str, nn.Parameter]], pool: Executor) -> None:
        """Set every parameter to its initial values; the pool draws them."""
        drawing: list[Future[None]] = []
        for name, parameter in parameters:
            if parameter.dim() == 1:
                parameter.fill_(1)
            else:
                drawing += draw_into(parameter, self.seed, name, self.deviation(name, tuple(parameter.shape)), pool)
        for piece in drawing:
            piece.result()


@contextmanager
def drawing_pool() -> Iterator[Executor]:
    """A pool of threads that draw values side by side, each on one core.

    torch itself is limited to one thread inside: an eigensolver gives other bits on another number of threads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def draw(seed: int, name: str, size: tuple[int, ...], deviation: float) -> Tensor:
    """N(0, deviation) values [size] in fp32."""
    values = torch.empty(size)
    for rows in _pieces(values):
        _fill(values, rows, seed, name, deviation)
    return values


def draw_into(parameter: Tensor, seed: int, name: str, deviation: float, pool: Executor) -> list[Future[None]]:
    """Have the pool set `parameter` to the values that `draw` returns for its size."""
    values = parameter.detach()
    return [pool.submit(_fill, values, rows, seed, name, deviation) for rows in _pieces(values)]


def _pieces(values: Tensor) -> list[slice]:
    """The rows of each piece."""
    rows = max(1, PIECE // math.prod(values.shape[1:]))
    return [slice(start, start + rows) for start in range(0, len(values), rows)]


def _fill(values: Tensor, rows: slice, seed: int, name: str, deviation: float) -> None:
    """Set these rows to the values that a generator seeded with the seed, the name and the first row draws."""
    drawn_from = f"{seed} {name} {rows.start}" if rows.start else f"{seed} {name}"
    digest = hashlib.sha256(drawn_from.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
    values[rows].copy_(torch.randn(values[rows].shape, generator=generator).mul_(deviation))
