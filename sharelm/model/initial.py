"""Initial values of matrices, from a seed and a name alone: the same bits however many cores draw them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

PIECE = 2**22  # values that one generator draws, so that several cores share a large matrix


@contextmanager
def drawers() -> Iterator[Executor]:
    """A pool that draws first values side by side, on one thread each.

    A draw uses one core, and an eigensolver ends with other bits on another number of them.
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
    """Have the pool give `parameter` the values that `draw` gives a tensor of its size."""
    values = parameter.detach()
    return [pool.submit(_fill, values, rows, seed, name, deviation) for rows in _pieces(values)]


def _pieces(values: Tensor) -> list[slice]:
    """The rows of each piece."""
    rows = max(1, PIECE // math.prod(values.shape[1:]))
    return [slice(start, start + rows) for start in range(0, len(values), rows)]


def _fill(values: Tensor, rows: slice, seed: int, name: str, deviation: float) -> None:
    drawn_from = f"{seed} {name} {rows.start}" if rows.start else f"{seed} {name}"
    digest = hashlib.sha256(drawn_from.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
    values[rows].copy_(torch.randn(values[rows].shape, generator=generator).mul_(deviation))
