"""How many trials share a GPU: two where their steps are so small that they wait for the host and not for it."""

from __future__ import annotations

from collections.abc import Sequence

from sharelm.study.arm import Arm
from sharelm.study.training import Training

# FLOPs. docs/results/training: together two trials were 1.15 to 1.9 times as fast up to this size, 0.9 times above.
SMALL_STEP = 1.5e11
TOGETHER = 2


def trials_per_gpu(arms: Sequence[Arm], training: Training) -> tuple[int, str]:
    """How many trials are to share a GPU, and a line that says why."""
    largest = max(arm.footprint.training_flops_per_token for arm in arms) * training.tokens_per_step
    step = f"a step of the largest arm takes {largest / 1e9:.3g} GFLOP"
    if training.trials_per_gpu != "auto":
        return training.trials_per_gpu, f"trials that share a GPU: {training.trials_per_gpu}, as asked for; {step}"
    if training.workers > 1:
        return 1, "trials that share a GPU: 1, since a trial has several workers"
    if largest > SMALL_STEP:
        return 1, f"trials that share a GPU: 1; {step}, which keeps one busy"
    return TOGETHER, f"trials that share a GPU: {TOGETHER}; {step}, too few to keep one busy"
