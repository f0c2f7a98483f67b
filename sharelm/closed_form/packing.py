"""How many trials share a GPU: two where their steps are so small that they wait for the host and not for it."""

from __future__ import annotations

# FLOPs. docs/results/training: together two trials were 1.15 to 1.9 times as fast up to this size, 0.9 times above.
SMALL_STEP = 1.5e11
TOGETHER = 2


def trials_together(step_flops: float, workers: int) -> int:
    """How many trials, of so many FLOPs a step and so many workers each, are quickest on one GPU."""
    return TOGETHER if workers == 1 and step_flops <= SMALL_STEP else 1
