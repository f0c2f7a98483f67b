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
    return torch.cat([_rows(seed, name, size, start, deviation) for start in _starts(size)])


def draw_into(parameter: Tensor, seed: int, name: str, deviation: float, pool: Executor) -> list[Future[None]]:
    """Have the pool give `parameter` the values that `draw` gives a tensor of its size."""
    size, values = tuple(parameter.shape), parameter.detach()

    def fill(start: int) -> None:
        rows = _rows(seed, name, size, start, deviation)
        values[start : start + len(rows)].copy_(rows)

    return [pool.submit(fill, start) for start in _starts(size)]


def _starts(size: tuple[int, ...]) -> range:
    return range(0, size[0], _piece_rows(size))


def _piece_rows(size: tuple[int, ...]) -> int:
    return max(1, PIECE // math.prod(size[1:]))


def _rows(seed: int, name: str, size: tuple[int, ...], start: int, deviation: float) -> Tensor:
    drawn_from = f"{seed} {name} {start}" if start else f"{seed} {name}"
    digest = hashlib.sha256(drawn_from.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
    rows = min(_piece_rows(size), size[0] - start)
    return torch.randn(rows, *size[1:], generator=generator).mul_(deviation)
