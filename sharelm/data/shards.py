"""Token shards: training documents, concatenated, in `.npy` files of bounded size; memory-mapped and read as rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHARD_TOKENS = 1 << 25  # 64 MiB at two bytes a token


def token_type(vocabulary: int) -> np.dtype[np.unsignedinteger]:
    """The smallest of uint16 and uint32 that holds every token."""
    return np.dtype(np.uint16 if vocabulary <= 1 << 16 else np.uint32)


def _write(tokens: NDArray[np.unsignedinteger], folder: Path, number: int) -> Path:
    name = f"tokens-{number:05d}-{hashlib.sha256(tokens.tobytes()).hexdigest()[:16]}.npy"
    np.save(folder / name, tokens, allow_pickle=False)
    return folder / name


def write_shards(
    documents: Iterable[Sequence[int] | NDArray[np.unsignedinteger]],
    end_of_text: int,
    vocabulary: int,
    folder: Path,
    shard_tokens: int,
) -> list[Path]:
    """The documents' tokens, each followed by end of text, in files of `shard_tokens` tokens (the last may have fewer).

    A document may go on in the next shard. Files are named by their number and content.
    """
    shard = np.empty(shard_tokens, token_type(vocabulary))
    paths: list[Path] = []
    filled = 0
    for document in documents:
        tokens = np.append(np.asarray(document, shard.dtype), shard.dtype.type(end_of_text))
        while len(tokens):
            taken = min(len(tokens), shard_tokens - filled)
            shard[filled : filled + taken] = tokens[:taken]
            tokens, filled = tokens[taken:], filled + taken
            if filled == shard_tokens:
                paths.append(_write(shard, folder, len(paths)))
                filled = 0
    if filled:
        paths.append(_write(shard[:filled], folder, len(paths)))
    return paths


class TokenRows(Sequence[NDArray[np.int64]]):
    """Rows of `context + 1` tokens over shards: the inputs, and their targets one position later.

    Row i is tokens [i * context, i * context + context], so that a row's last target is the next row's first input
    and every token but the very first is a target once. Tokens at the end that do not fill a row are left out.
    """

    def __init__(self, shards: Sequence[NDArray[np.unsignedinteger]], context: int):
        self._shards = shards
        self._starts = np.cumsum([0, *(len(shard) for shard in shards)])
        self.context = context

    @classmethod
    def open(cls, paths: Sequence[Path], context: int) -> TokenRows:
        """Rows over these files in this order. The files are memory-mapped."""
        return cls([np.load(path, mmap_mode="r", allow_pickle=False) for path in paths], context)

    def __len__(self) -> int:
        return max(0, (int(self._starts[-1]) - 1) // self.context)

    def batch(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """The rows with these numbers, [n, context + 1]; `IndexError` for a number out of range."""
        rows = np.asarray(indices, np.int64)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        positions = rows[:, None] * self.context + np.arange(self.context + 1)
        shard_of = np.searchsorted(self._starts, positions, side="right") - 1
        found = np.empty(positions.shape, np.int64)
        for shard in np.unique(shard_of):
            here = shard_of == shard
            found[here] = self._shards[shard][positions[here] - self._starts[shard]]
        return found

    def __getitem__(self, index: int) -> NDArray[np.int64]:  # type: ignore[override]  # no slices
        row: NDArray[np.int64] = self.batch(np.array([range(len(self))[index]]))[0]
        return row

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return (self[index] for index in range(len(self)))
