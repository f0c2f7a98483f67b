"""The order of tokens: a pure function of (seed, step), whatever the number of workers.

Packed rows are visited epoch by epoch, each epoch in its own permutation. Every arm of a study sees the same
rows at the same step, so that arms differ in the declared difference alone.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=4)
def _permutation(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order in which this epoch visits the rows."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(rows)


def step_rows(rows: int, sequences: int, seed: int, step: int) -> NDArray[np.int64]:
    """The rows of one optimizer step.

    Args:
        rows: packed rows in the corpus.
        sequences: rows a step takes over all workers.
        seed: the trial's seed.
        step: optimizer step, from 0.

    Returns:
        Row numbers, shape [sequences]; workers and passes take consecutive parts of it.
    """
    positions = np.arange(step * sequences, (step + 1) * sequences)
    epochs, within = np.divmod(positions, rows)
    taken = np.empty(sequences, dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        taken[here] = _permutation(rows, seed, int(epoch))[within[here]]
    return taken


def worker_rows(step: NDArray[np.int64], rank: int, world: int) -> NDArray[np.int64]:
    """The consecutive part of a step's rows that belongs to one worker, shape [sequences / world]."""
    share = len(step) // world
    return step[rank * share : (rank + 1) * share]
